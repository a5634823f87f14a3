/* SPDX-License-Identifier: MIT */
/* restore/: what is written here under the name of an archive is restored when
 * it is closed, or gets that name. */
#include "fs/inbox.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define NAME_MAX_BYTES 255

struct restore_dir {
    struct node node;
    struct inbox *inbox;
};

static void dir_free(struct node *node)
{
    free(node);
}

static int dir_getattr(struct node *node, const struct request *request, struct stat *ret_stat,
                       double *ret_seconds)
{
    (void)request, (void)ret_seconds;
    tree_stat_dir(((struct restore_dir *)node)->inbox->tree, 0700, ret_stat);
    return 0;
}

static int dir_lookup(struct node *node, const struct request *request, const char *name,
                      struct node **ret_child, double *ret_seconds)
{
    (void)request, (void)ret_seconds;
    struct inbox *inbox = ((struct restore_dir *)node)->inbox;
    scoped_lock(&inbox->lock);
    struct inbox_file *file = *inbox_find(inbox, name);
    if (!file)
        return -ENOENT;
    *ret_child = node_ref(&file->node);
    return 0;
}

static int dir_list(struct node *node, node_emit_fn *emit, void *data)
{
    struct inbox *inbox = ((struct restore_dir *)node)->inbox;
    scoped_lock(&inbox->lock);
    int r = 0;
    for (struct inbox_file *file = inbox->files; file && r == 0; file = file->next)
        r = emit(data, file->name, file->node.ino, S_IFREG);
    return r;
}

static int check_name(struct inbox *inbox, const char *name)
{
    if (strlen(name) > NAME_MAX_BYTES)
        return -ENAMETOOLONG;
    if (restore_is_archive_name(name) || restore_is_temporary_name(name))
        return 0;
    log_event(
        inbox->tree->log,
        "%s/restore/%s: refused: the name must end in .tar, .tar.gz (.tgz), .tar.zst (.tzst), "
        ".tar.xz (.txz) or .tar.bz2 (.tbz2)",
        inbox->volume, name);
    return -EINVAL;
}

static int dir_create(struct node *node, const char *name, mode_t mode, struct node **ret_child,
                      struct opened *ret_opened)
{
    struct inbox *inbox = ((struct restore_dir *)node)->inbox;
    int r = check_name(inbox, name);
    if (r < 0)
        return r;
    struct inbox_file *file = inbox_file_new(inbox, name, mode);
    if (!file)
        return -ENOMEM;
    r = inbox_file_open(&file->node, NULL, O_RDWR | O_TRUNC, ret_opened);
    if (r == 0) {
        scoped_lock(&inbox->lock);
        struct inbox_file **at = inbox_find(inbox, name);
        if (*at) {
            r = -EEXIST;
        } else {
            *at = file;
            *ret_child = node_ref(&file->node);
        }
    }
    if (r == -EEXIST)
        inbox_file_release(&file->node, ret_opened->handle);
    if (r < 0)
        node_unref(&file->node);
    return r;
}

/* With the lock: takes the file out of the list; its reference is the caller's. */
static struct inbox_file *take_out(struct inbox *inbox, const char *name)
{
    struct inbox_file **at = inbox_find(inbox, name);
    struct inbox_file *file = *at;
    if (file) {
        *at = file->next;
        file->next = NULL;
    }
    return file;
}

static int dir_unlink(struct node *node, const char *name)
{
    struct inbox *inbox = ((struct restore_dir *)node)->inbox;
    struct inbox_file *file;
    {
        scoped_lock(&inbox->lock);
        file = take_out(inbox, name);
    }
    if (!file)
        return -ENOENT;
    node_unref(&file->node);
    return 0;
}

/* Gives the file its new name, in the place of one that had it. */
static int give_name(struct inbox *inbox, struct inbox_file *file, const char *from, const char *to)
{
    char *name = strdup(to);
    if (!name)
        return -ENOMEM;
    struct inbox_file *replaced;
    {
        scoped_lock(&inbox->lock);
        if (*inbox_find(inbox, from) != file) {
            free(name);
            return -ENOENT;
        }
        replaced = take_out(inbox, to);
        free(file->name);
        file->name = name;
    }
    if (replaced)
        node_unref(&replaced->node);
    return 0;
}

/* A refused archive keeps its temporary name for whoever wrote it to clear away;
 * the reason can be read under the name it was meant for. */
static void leave_receipt(struct inbox *inbox, const char *name, char *receipt)
{
    struct inbox_file *file = receipt ? inbox_file_new(inbox, name, 0600) : NULL;
    if (!file) {
        free(receipt);
        return;
    }
    file->receipt = receipt;
    struct inbox_file *replaced;
    {
        scoped_lock(&inbox->lock);
        replaced = take_out(inbox, name);
        *inbox_find(inbox, name) = file;
    }
    if (replaced)
        node_unref(&replaced->node);
}

static int rename_file(struct inbox *inbox, struct inbox_file *file, const char *from,
                       const char *to, const struct request *request)
{
    if (!restore_is_archive_name(to))
        return give_name(inbox, file, from, to);
    char *receipt = NULL;
    int r = inbox_file_restore(file, to, request, &receipt);
    if (r < 0) {
        leave_receipt(inbox, to, receipt);
        return r;
    }
    inbox_file_tell(file, receipt);
    return give_name(inbox, file, from, to);
}

static int dir_rename(struct node *node, const struct request *request, const char *from,
                      const char *to, bool no_replace)
{
    struct inbox *inbox = ((struct restore_dir *)node)->inbox;
    int r = check_name(inbox, to);
    if (r < 0)
        return r;
    struct inbox_file *file;
    {
        scoped_lock(&inbox->lock);
        file = *inbox_find(inbox, from);
        if (!file)
            return -ENOENT;
        if (no_replace && *inbox_find(inbox, to))
            return -EEXIST;
        (void)node_ref(&file->node);
    }
    if (strcmp(from, to) != 0)
        r = rename_file(inbox, file, from, to, request);
    node_unref(&file->node);
    return r;
}

static const struct node_ops dir_ops = {
    .waits = NODE_WAITS_RENAME,
    .free = dir_free,
    .getattr = dir_getattr,
    .lookup = dir_lookup,
    .list = dir_list,
    .create = dir_create,
    .unlink = dir_unlink,
    .rename = dir_rename,
    .refuse_create = EPERM,
};

struct node *node_restore_new(struct tree *tree, const char *volume, uint64_t id)
{
    struct restore_dir *dir = calloc(1, sizeof(*dir));
    if (!dir || !(dir->inbox = inbox_of(tree, volume))) {
        free(dir);
        return NULL;
    }
    node_init(&dir->node, &dir_ops, INO_RESTORE(id));
    return &dir->node;
}
