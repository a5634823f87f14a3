/* SPDX-License-Identifier: MIT */
#include "check.h"

#include "fs/inode.h"

static int freed;

static void count_free(struct node *node)
{
    freed++;
    free(node);
}

static const struct node_ops ops = {.free = count_free};

static struct node *make(uint64_t ino)
{
    struct node *node = calloc(1, sizeof(*node));
    assert_non_null(node);
    node_init(node, &ops, ino);
    return node;
}

static void a_node_lives_until_the_kernel_forgets_it(void **state)
{
    (void)state;
    freed = 0;
    struct inode_table *table = inode_table_new(make(1));
    assert_null(inode_table_get(table, 7));
    struct node *node = inode_table_lookup(table, make(7));
    node_unref(node);
    node = inode_table_lookup(table, make(7)); /* an equal one: the first wins */
    assert_int_equal(freed, 1);
    inode_table_forget(table, 7, 1);
    assert_ptr_equal(inode_table_get(table, 7), node);
    node_unref(node);
    inode_table_forget(table, 7, 1);
    assert_null(inode_table_get(table, 7));
    assert_int_equal(freed, 1); /* still ours */
    node_unref(node);
    assert_int_equal(freed, 2);
    inode_table_free(table);
    assert_int_equal(freed, 3);
}

static void the_root_is_never_forgotten(void **state)
{
    (void)state;
    struct inode_table *table = inode_table_new(make(1));
    inode_table_forget(table, 1, 100);
    struct node *root = inode_table_get(table, 1);
    assert_non_null(root);
    node_unref(root);
    inode_table_forget(table, 99, 1);
    inode_table_free(table);
    inode_table_free(NULL);
}

static void nothing_is_offered_by_default(void **state)
{
    (void)state;
    struct node *node = make(1);
    struct opened opened;
    struct node *child;
    double seconds;
    char byte;
    assert_int_equal(node_lookup(node, NULL, "x", &child, &seconds), -ENOTDIR);
    assert_int_equal(node_list(node, NULL, NULL), -ENOTDIR);
    assert_int_equal(node_create(node, "x", 0, 0, &child, &opened), -ENOTDIR);
    assert_int_equal(node_mkdir(node, NULL, "x", &child), -ENOTDIR);
    assert_int_equal(node_rmdir(node, "x"), -EPERM);
    assert_int_equal(node_unlink(node, "x"), -EPERM);
    assert_int_equal(node_rename(node, NULL, "x", "y", false), -EPERM);
    assert_int_equal(node_open(node, NULL, 0, &opened), -EACCES);
    assert_int_equal(node_read(node, NULL, NULL, &byte, 1, 0), -EBADF);
    assert_int_equal(node_write(node, NULL, &byte, 1, 0), -EROFS);
    assert_int_equal(node_flush(node, NULL, NULL), 0);
    assert_int_equal(node_truncate(node, 0), -EROFS);
    assert_int_equal(node_set_times(node, NULL, true), -EPERM);
    assert_int_equal(node_set_mode(node, 0), -EPERM);
    assert_int_equal(node_set_owner(node), -EPERM);
    node_release(node, NULL);
    node_unref(node);
    node_unref(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_node_lives_until_the_kernel_forgets_it),
        cmocka_unit_test(the_root_is_never_forgotten),
        cmocka_unit_test(nothing_is_offered_by_default),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
