/* SPDX-License-Identifier: MIT */
#include "scratch.h"

#include "store/index.h"
#include "store/pagefile.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>

#define TREE_MAX 4000
#define KEYS_MAX 300

static uint64_t random_state = 1;

static uint64_t random_below(uint64_t bound)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (random_state >> 20) % bound;
}

/* ---- a tree in memory, and what an index says of it ---------------------------------- */

/* An entry with memory of its own. */
struct node {
    struct index_entry entry;
    char name[NAME_MAX + 1];
    char link_target[PATH_MAX];
    struct buf xattrs;
    struct file_extent *extents;
};

struct tree {
    struct node *nodes[TREE_MAX];
    size_t count;
    struct index_about about;
};

static void tree_done(struct tree *tree)
{
    for (size_t i = 0; i < tree->count; i++) {
        buf_done(&tree->nodes[i]->xattrs);
        free(tree->nodes[i]->extents);
        free(tree->nodes[i]);
    }
    free(tree);
}

static struct node *add_node(struct tree *tree, uint64_t id, uint64_t parent, const char *name,
                             uint32_t mode)
{
    struct node *node = calloc(1, sizeof(*node));
    assert_non_null(node);
    assert_true(tree->count < TREE_MAX);
    tree->nodes[tree->count++] = node;
    buf_init(&node->xattrs, FILE_MAX_XATTR_BYTES);
    (void)snprintf(node->name, sizeof(node->name), "%s", name);
    node->entry = (struct index_entry){.id = id, .parent = parent, .target = id};
    node->entry.file = (struct file){
        .stat = {.mode = mode,
                 .nlink = 1,
                 .uid = (uint32_t)random_below(70000),
                 .gid = UINT32_MAX,
                 .mtime = {(int64_t)random_below(1 << 30) - (1 << 29), 999999999}},
        .name = node->name,
        .link_target = node->link_target,
        .xattrs = "",
        .extents = "",
    };
    return node;
}

static void add_xattr(struct node *node, const char *name, const void *value, size_t bytes)
{
    assert_int_equal(file_xattr_add(&node->xattrs, name, value, bytes), 0);
    node->entry.file.xattrs = node->xattrs.data;
    node->entry.file.xattr_bytes = node->xattrs.len;
}

static void make_sparse(struct node *node, size_t count)
{
    uint64_t at = 0;
    node->extents = calloc(count + 1, sizeof(*node->extents));
    assert_non_null(node->extents);
    for (size_t i = 0; i < count; i++) {
        at += 512 * (1 + random_below(100));
        node->extents[i] = (struct file_extent){at, 512 * (1 + random_below(9))};
        at += node->extents[i].bytes;
    }
    node->entry.file.stat.size_bytes = at + 4096;
    node->entry.file.is_sparse = true;
    node->entry.file.extent_count = count;
}

/* One of each kind, with values at the ends of their ranges. */
static struct tree *make_small_tree(void)
{
    struct tree *tree = calloc(1, sizeof(*tree));
    assert_non_null(tree);
    tree->about = (struct index_about){.archive_bytes = 12345,
                                       .seal = UINT64_C(0xfedcba9876543210),
                                       .sha256 = {1, 2, 3, [31] = 9},
                                       .taken_s = -5,
                                       .consistency = "live"};
    struct node *root = add_node(tree, 0, 0, "", S_IFDIR | 01777);
    add_xattr(root, "user.empty", "", 0);
    add_xattr(root, "security.bytes", "\0\1\2\377", 4);
    struct node *file = add_node(tree, 1, 0, "plain", S_IFREG | 06755);
    file->entry.file.stat.size_bytes = INT64_MAX;
    file->entry.offset = INT64_MAX;
    file->entry.file.stat.nlink = 2;
    add_xattr(file, "user.a", "value", 5);
    make_sparse(add_node(tree, 2, 0, "sparse", S_IFREG | 0644), 1000);
    make_sparse(add_node(tree, 3, 0, "all hole", S_IFREG | 0644), 0);
    struct node *symlink = add_node(tree, 4, 0, "symlink", S_IFLNK | 0777);
    memset(symlink->link_target, 'x', PATH_MAX - 1);
    struct node *device = add_node(tree, 5, 0, "device", S_IFBLK | 0600);
    device->entry.file.stat.rdev_major = UINT32_MAX;
    device->entry.file.stat.rdev_minor = 7;
    (void)add_node(tree, 6, 0, "tty", S_IFCHR | 0600);
    (void)add_node(tree, 7, 0, "fifo", S_IFIFO | 0600);
    (void)add_node(tree, 9, 0, "\xff\x01 a\nname", S_IFDIR); /* ids may have gaps */
    struct node *second = add_node(tree, 10, 9, "second", S_IFREG);
    second->entry.target = 1;
    char longest[NAME_MAX + 1];
    memset(longest, 'l', NAME_MAX);
    longest[NAME_MAX] = '\0';
    (void)add_node(tree, 11, 9, longest, S_IFREG);
    return tree;
}

static const struct node *node_of(const struct tree *tree, uint64_t id)
{
    for (size_t i = 0; i < tree->count; i++)
        if (tree->nodes[i]->entry.id == id)
            return tree->nodes[i];
    return NULL;
}

static void new_file(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    (void)close(fd);
}

static void key_of(uint64_t number, uint8_t key[INDEX_KEY_BYTES])
{
    memset(key, (int)(number % 251), INDEX_KEY_BYTES);
    memcpy(key, &number, sizeof(number));
}

static int write_tree(const struct tree *tree, const char *path, struct fail *why)
{
    struct index_writer *writer cleanup_index_writer = NULL;
    int r = index_writer_new(path, &writer, why);
    for (size_t i = 0; r == 0 && i < tree->count; i++)
        r = index_add(writer, &tree->nodes[i]->entry, tree->nodes[i]->extents, why);
    for (uint64_t number = 0; r == 0 && number < KEYS_MAX; number += 3) {
        uint8_t key[INDEX_KEY_BYTES];
        key_of(number, key);
        r = index_add_frame(writer, number, key, why);
    }
    return r < 0 ? r : index_finish(writer, &tree->about, why);
}

static void must_write(const struct tree *tree, const char *path)
{
    struct fail why = FAIL_INIT;
    new_file(path);
    int r = write_tree(tree, path, &why);
    if (r < 0)
        fail_msg("%s", fail_text(&why, r));
}

/* ---- comparing ------------------------------------------------------------------ */

static bool same_times(const struct file_time *a, const struct file_time *b)
{
    return a->s == b->s && a->ns == b->ns;
}

static uint64_t blocks_of(const struct node *node)
{
    uint64_t bytes = node->entry.file.is_sparse ? 0 : node->entry.file.stat.size_bytes;
    for (size_t i = 0; i < node->entry.file.extent_count; i++)
        bytes += node->extents[i].bytes;
    return S_ISREG(node->entry.file.stat.mode) ? (bytes + 511) / 512 : 0;
}

static bool same_file(const struct file *file, const struct node *wanted)
{
    const struct file *other = &wanted->entry.file;
    const struct file_stat *a = &file->stat;
    const struct file_stat *b = &other->stat;
    bool same = a->mode == b->mode && a->nlink == b->nlink && a->uid == b->uid &&
                a->gid == b->gid && a->size_bytes == b->size_bytes &&
                a->rdev_major == b->rdev_major && a->rdev_minor == b->rdev_minor &&
                same_times(&a->mtime, &b->mtime) && a->blocks == blocks_of(wanted) &&
                strcmp(file->link_target, other->link_target) == 0 &&
                file->xattr_bytes == other->xattr_bytes &&
                memcmp(file->xattrs, other->xattrs, file->xattr_bytes) == 0 &&
                file->is_sparse == other->is_sparse && file->extent_count == other->extent_count;
    for (size_t i = 0; same && i < file->extent_count; i++) {
        struct file_extent extent = file_extent_at(file, i);
        same =
            extent.offset == wanted->extents[i].offset && extent.bytes == wanted->extents[i].bytes;
    }
    return same;
}

/* Whether an entry is that of the tree. */
static bool same_entry(const struct tree *tree, const struct index_entry *entry)
{
    const struct node *node = node_of(tree, entry->id);
    const struct node *first = node ? node_of(tree, node->entry.target) : NULL;
    return first && entry->parent == node->entry.parent && entry->target == node->entry.target &&
           entry->offset == first->entry.offset && entry->file.stat.ino == entry->target &&
           strcmp(entry->file.name, node->name) == 0 && same_file(&entry->file, first);
}

struct seen {
    const struct tree *tree;
    size_t count;
    size_t wrong;
    char last[NAME_MAX + 1];
};

static int see(void *data, const struct index_entry *entry)
{
    struct seen *seen = data;
    seen->count++;
    seen->wrong += !same_entry(seen->tree, entry) ||
                   (entry->id > 0 && strcmp(entry->file.name, seen->last) <= 0);
    (void)snprintf(seen->last, sizeof(seen->last), "%s", entry->file.name);
    return 0;
}

static int see_key(void *data, uint64_t number, const uint8_t key[INDEX_KEY_BYTES])
{
    struct seen *seen = data;
    uint8_t wanted[INDEX_KEY_BYTES];
    key_of(number, wanted);
    seen->wrong += number != seen->count * 3 || memcmp(wanted, key, sizeof(wanted)) != 0;
    seen->count++;
    return 0;
}

/* Lists a directory by pages of `max`: how many, or the error. */
static int list_all(struct index *index, uint64_t parent, unsigned max, struct seen *seen)
{
    int total = 0;
    int r;
    do {
        char after[NAME_MAX + 1];
        (void)snprintf(after, sizeof(after), "%s", seen->last);
        r = index_list(index, parent, total ? after : NULL, max, see, seen, NULL);
        total += r > 0 ? r : 0;
    } while (r > 0);
    return r < 0 ? r : total;
}

static int children(const struct tree *tree, uint64_t parent)
{
    int count = 0;
    for (size_t i = 1; i < tree->count; i++)
        count += tree->nodes[i]->entry.parent == parent;
    return count;
}

static bool same_about(const struct index *index, const struct tree *tree)
{
    struct index_about about;
    index_about(index, &about);
    return about.archive_bytes == tree->about.archive_bytes && about.seal == tree->about.seal &&
           memcmp(about.sha256, tree->about.sha256, sizeof(about.sha256)) == 0 &&
           about.taken_s == tree->about.taken_s && about.entries == tree->count &&
           strcmp(about.consistency, tree->about.consistency) == 0;
}

/* Asks an index for all there is: how many answers were errors.  None may be wrong, and
 * there are no errors but those that are told. */
static size_t ask_all(struct index *index, const struct tree *tree)
{
    size_t errors = 0;
    assert_true(same_about(index, tree));
    for (size_t i = 0; i < tree->count; i++) {
        const struct index_entry *entry = &tree->nodes[i]->entry;
        struct seen seen = {.tree = tree};
        int r = index_get(index, entry->id, see, &seen, NULL);
        assert_true((r == 0 && seen.count == 1) || (r == -EBADMSG && seen.count == 0));
        errors += r < 0;
        if (entry->id > 0) {
            seen.last[0] = '\0';
            r = index_find(index, entry->parent, entry->file.name, see, &seen, NULL);
            assert_true(r == 0 || r == -EBADMSG);
            errors += r < 0;
        }
        assert_int_equal(seen.wrong, 0);
        if (!S_ISDIR(entry->file.stat.mode))
            continue;
        seen = (struct seen){.tree = tree};
        r = list_all(index, entry->id, 1 + (unsigned)random_below(7), &seen);
        assert_true(r == -EBADMSG || r == children(tree, entry->id));
        assert_int_equal(seen.wrong, 0);
        errors += r < 0;
    }
    struct seen keys = {.tree = tree};
    int r = index_frames(index, see_key, &keys, NULL);
    assert_true(r == -EBADMSG || (r == 0 && keys.count == KEYS_MAX / 3));
    assert_int_equal(keys.wrong, 0);
    return errors + (r < 0);
}

static void check_index(const char *path, const struct tree *tree)
{
    struct fail why = FAIL_INIT;
    struct index *index cleanup_index = NULL;
    int r = index_open(path, &index, &why);
    if (r < 0)
        fail_msg("%s", fail_text(&why, r));
    assert_int_equal(ask_all(index, tree), 0);
}

/* ---- what is written is read ------------------------------------------------------ */

static void each_kind(void **state)
{
    (void)state;
    struct tree *tree = make_small_tree();
    must_write(tree, "each");
    check_index("each", tree);
    tree_done(tree);
}

static int fail_with(void *data, const struct index_entry *entry)
{
    (void)entry;
    return *(int *)data;
}

static void what_is_not_there(void **state)
{
    (void)state;
    struct tree *tree = make_small_tree();
    struct index *index cleanup_index = NULL;
    struct seen seen = {.tree = tree};
    must_write(tree, "not-there");
    assert_int_equal(index_open("not-there", &index, NULL), 0);
    static const char *const names[] = {"nobody", "", "plai", "plain2", "a/b", ".", "..", "Plain"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        assert_int_equal(index_find(index, 0, names[i], see, &seen, NULL), -ENOENT);
    assert_int_equal(index_find(index, 8, "plain", see, &seen, NULL), -ENOENT);
    assert_int_equal(index_find(index, UINT64_MAX, "plain", see, &seen, NULL), -ENOENT);
    assert_int_equal(index_get(index, 8, see, &seen, NULL), -ENOENT);
    assert_int_equal(index_get(index, UINT64_MAX, see, &seen, NULL), -ENOENT);
    assert_int_equal(index_list(index, 8, NULL, 100, see, &seen, NULL), 0);
    assert_int_equal(index_list(index, 0, "zzz", 1, see, &seen, NULL), 1); /* \xff is behind */
    assert_int_equal(seen.count, 1);
    /* What the function returns comes back. */
    int wanted = -ECANCELED;
    assert_int_equal(index_get(index, 1, fail_with, &wanted, NULL), -ECANCELED);
    assert_int_equal(index_list(index, 0, NULL, 9, fail_with, &wanted, NULL), -ECANCELED);
    assert_int_equal(index_list(index, 0, NULL, 0, fail_with, &wanted, NULL), 0);
    tree_done(tree);
}

/* A tree of that many entries, ids as in an archive: depth first. */
static struct tree *make_random_tree(size_t count)
{
    static const char zeros[] = "00000000000000000000000000000000";
    struct tree *tree = calloc(1, sizeof(*tree));
    uint64_t path[8] = {0};
    size_t depth = 0;
    assert_non_null(tree);
    (void)add_node(tree, 0, 0, "", S_IFDIR | 0755);
    (void)snprintf(tree->about.consistency, sizeof(tree->about.consistency), "stopped");
    for (uint64_t id = 1; id < count; id++) {
        char name[64];
        while (depth > 0 && random_below(10) == 0)
            depth--;
        (void)snprintf(name, sizeof(name), "%s%" PRIu64, zeros + random_below(sizeof(zeros)), id);
        bool is_dir = random_below(8) == 0;
        struct node *node = add_node(tree, id, path[depth], name, is_dir ? S_IFDIR : S_IFREG);
        if (is_dir && depth < 7)
            path[++depth] = id;
        if (!is_dir && random_below(20) == 0)
            make_sparse(node, random_below(30));
        if (random_below(10) == 0)
            add_xattr(node, "user.name", name, strlen(name));
        if (!is_dir && random_below(10) == 0 && S_ISREG(tree->nodes[id / 2]->entry.file.stat.mode))
            node->entry.target = tree->nodes[id / 2]->entry.target;
    }
    return tree;
}

static void random_trees(void **state)
{
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct tree *tree = make_random_tree(2 + i * 300);
        must_write(tree, "random");
        check_index("random", tree);
        tree_done(tree);
    }
}

/* SQLite's own tools can read it, and find it sound. */
static void is_a_database(void **state)
{
    (void)state;
    struct tree *tree = make_random_tree(1000);
    char answer[64] = "";
    sqlite3 *db;
    sqlite3_stmt *stmt;
    must_write(tree, "plain-db");
    assert_int_equal(sqlite3_open_v2("plain-db", &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &stmt, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    (void)snprintf(answer, sizeof(answer), "%s", (const char *)sqlite3_column_text(stmt, 0));
    (void)sqlite3_finalize(stmt);
    (void)sqlite3_close(db);
    assert_string_equal(answer, "ok");
    tree_done(tree);
}

/* It may be removed or replaced while it is open. */
static void removed_while_open(void **state)
{
    (void)state;
    struct tree *tree = make_random_tree(500);
    struct index *index cleanup_index = NULL;
    must_write(tree, "removed");
    assert_int_equal(index_open("removed", &index, NULL), 0);
    assert_int_equal(unlink("removed"), 0);
    new_file("removed");
    assert_int_equal(ask_all(index, tree), 0);
    tree_done(tree);
}

/* ---- what makes no sense is not written ---------------------------------------------- */

static int try_second(struct node *node)
{
    struct index_writer *writer cleanup_index_writer = NULL;
    struct tree *tree = calloc(1, sizeof(*tree));
    assert_non_null(tree);
    struct node *root = add_node(tree, 0, 0, "", S_IFDIR | 0755);
    struct node *first = add_node(tree, 5, 0, "first", S_IFREG | 0644);
    new_file("refused");
    assert_int_equal(index_writer_new("refused", &writer, NULL), 0);
    assert_int_equal(index_add(writer, &root->entry, NULL, NULL), 0);
    assert_int_equal(index_add(writer, &first->entry, NULL, NULL), 0);
    int r = index_add(writer, &node->entry, node->extents, NULL);
    tree_done(tree);
    return r;
}

static void refuses(void **state)
{
    (void)state;
    struct tree *tree = calloc(1, sizeof(*tree));
    assert_non_null(tree);
    struct node *good = add_node(tree, 6, 0, "good", S_IFREG | 0644);
    assert_int_equal(try_second(good), 0);
    assert_int_equal(try_second(add_node(tree, 5, 0, "a", S_IFREG)), -EINVAL); /* id */
    assert_int_equal(try_second(add_node(tree, 0, 0, "", S_IFDIR)), -EINVAL);
    assert_int_equal(try_second(add_node(tree, 6, 6, "a", S_IFREG)), -EINVAL); /* parent */
    static const char *const names[] = {"", ".", "..", "a/b", "first"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        assert_int_equal(try_second(add_node(tree, 6, 0, names[i], S_IFREG)), -EINVAL);
    char longest[NAME_MAX + 2];
    memset(longest, 'l', NAME_MAX + 1);
    longest[NAME_MAX + 1] = '\0';
    struct node *node = add_node(tree, 6, 0, "a", S_IFREG);
    node->entry.file.name = longest;
    assert_int_equal(try_second(node), -ENAMETOOLONG);
    assert_int_equal(try_second(add_node(tree, 6, 0, "a", 0644)), -EINVAL); /* type */
    assert_int_equal(try_second(add_node(tree, 6, 0, "a", S_IFSOCK)), -EINVAL);
    assert_int_equal(try_second(add_node(tree, 6, 0, "a", S_IFREG | 0x10000)), -EINVAL);
    assert_int_equal(try_second(add_node(tree, 6, 0, "a", S_IFLNK)), -EINVAL); /* to nowhere */
    node = add_node(tree, 6, 0, "a", S_IFREG);
    node->entry.target = 7;
    assert_int_equal(try_second(node), -EINVAL);
    node = add_node(tree, 6, 0, "a", S_IFREG);
    node->entry.file.stat.mtime.ns = 1000000000;
    assert_int_equal(try_second(node), -EINVAL);
    node = add_node(tree, 6, 0, "a", S_IFREG);
    node->entry.file.xattrs = "\377\377\377\377";
    node->entry.file.xattr_bytes = 4;
    assert_int_equal(try_second(node), -EINVAL);
    node = add_node(tree, 6, 0, "a", S_IFREG);
    make_sparse(node, 3);
    node->extents[1].offset = node->extents[0].offset;
    assert_int_equal(try_second(node), -EINVAL);
    tree_done(tree);
}

static void unfinished(void **state)
{
    (void)state;
    struct tree *tree = make_small_tree();
    struct index *index = NULL;
    struct index_writer *writer;
    new_file("unfinished");
    assert_int_equal(index_writer_new("unfinished", &writer, NULL), 0);
    assert_int_equal(index_add(writer, &tree->nodes[0]->entry, NULL, NULL), 0);
    index_writer_free(writer);
    assert_int_equal(index_open("unfinished", &index, NULL), -ENODATA);
    assert_int_equal(index_open("nobody", &index, NULL), -ENODATA);
    assert_int_equal(mkfifo("fifo", 0600), 0);
    assert_int_equal(index_open("fifo", &index, NULL), -ENODATA);
    assert_int_equal(mkdir("dir", 0700), 0);
    assert_int_equal(index_open("dir", &index, NULL), -ENODATA);
    must_write(tree, "finished");
    assert_int_equal(symlink("finished", "link"), 0);
    assert_int_equal(index_open("link", &index, NULL), -ENODATA);
    tree_done(tree);
}

/* ---- damage ---------------------------------------------------------------------- */

static void read_whole(const char *path, struct buf *bytes)
{
    char piece[65536];
    ssize_t n;
    int fd cleanup_close = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    buf_init(bytes, 64 << 20);
    while ((n = read(fd, piece, sizeof(piece))) > 0)
        assert_int_equal(buf_add(bytes, piece, (size_t)n), 0);
}

static void write_whole(const char *path, const void *data, size_t bytes)
{
    int fd cleanup_close = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, bytes), bytes);
}

/* Opens a damaged index and asks it: whether anything of it was an error. */
static bool is_noticed(const char *path, const struct tree *tree)
{
    struct index *index cleanup_index = NULL;
    int r = index_open(path, &index, NULL);
    assert_true(r == 0 || r == -ENODATA);
    return r < 0 || ask_all(index, tree) > 0;
}

static void cut_short(void **state)
{
    (void)state;
    struct buf whole cleanup_buf;
    struct index *index = NULL;
    struct tree *tree = make_random_tree(200);
    must_write(tree, "whole");
    read_whole("whole", &whole);
    for (size_t bytes = 0; bytes < whole.len; bytes += bytes < whole.len - 600 ? 1024 : 1) {
        write_whole("cut", whole.data, bytes);
        assert_int_equal(index_open("cut", &index, NULL), -ENODATA);
    }
    /* So that a file that grew is no other. */
    assert_int_equal(buf_add(&whole, "", 1), 0);
    write_whole("cut", whole.data, whole.len);
    assert_int_equal(index_open("cut", &index, NULL), -ENODATA);
    tree_done(tree);
}

/* A bit that is not what it was is an error or was not needed; no answer is wrong. */
static void flipped_bits(void **state)
{
    (void)state;
    struct buf whole cleanup_buf;
    struct tree *tree = make_random_tree(60);
    size_t noticed = 0;
    must_write(tree, "whole");
    read_whole("whole", &whole);
    for (int i = 0; i < 2000; i++) {
        char *at = whole.data + random_below(whole.len);
        char bit = (char)(1 << random_below(8));
        *at = (char)(*at ^ bit);
        write_whole("flipped", whole.data, whole.len);
        noticed += is_noticed("flipped", tree);
        *at = (char)(*at ^ bit);
    }
    assert_int_equal(noticed, 2000); /* so small that each page is needed */
    tree_done(tree);
}

/* Damage that comes while it is open. */
static void damaged_while_open(void **state)
{
    (void)state;
    struct index *index cleanup_index = NULL;
    struct tree *tree = make_random_tree(3000);
    struct buf whole cleanup_buf;
    must_write(tree, "while-open");
    read_whole("while-open", &whole);
    assert_int_equal(index_open("while-open", &index, NULL), 0);
    int fd cleanup_close = open("while-open", O_WRONLY | O_CLOEXEC);
    for (size_t page = 1; page < whole.len / PAGEFILE_PAGE_BYTES; page += 2)
        assert_int_equal(pwrite(fd, "\x55", 1, (off_t)(page * PAGEFILE_PAGE_BYTES + 2000)), 1);
    size_t errors = ask_all(index, tree);
    assert_true(errors > 10 && errors < tree->count * 2);
    assert_int_equal(ftruncate(fd, PAGEFILE_PAGE_BYTES), 0);
    assert_true(ask_all(index, tree) > errors / 2);
    tree_done(tree);
}

/* ---- hostile: whole pages with right hashes --------------------------------------------- */

/* Cuts the hashes off and makes them anew. */
static void rehash(const char *path, const void *data, size_t db_bytes)
{
    write_whole(path, data, db_bytes);
    assert_int_equal(pagefile_finish(path, NULL), 0);
}

static int take_any(void *data, const struct index_entry *entry)
{
    struct seen *seen = data;
    seen->count += strlen(entry->file.name) + strlen(entry->file.link_target);
    assert_true(entry->id == 0 || entry->parent < entry->id);
    assert_true(entry->target <= entry->id);
    for (size_t i = 0; i < entry->file.extent_count; i++)
        seen->count += file_extent_at(&entry->file, i).bytes > 0;
    size_t position = 0;
    const char *name;
    const void *value;
    size_t bytes;
    while (file_xattr_next(&entry->file, &position, &name, &value, &bytes) > 0)
        seen->count += strlen(name) + bytes;
    return 0;
}

static int take_any_key(void *data, uint64_t number, const uint8_t key[INDEX_KEY_BYTES])
{
    struct seen *seen = data;
    seen->count += number + key[0] + key[INDEX_KEY_BYTES - 1];
    return 0;
}

static bool is_clean(int r)
{
    return r >= 0 || r == -EBADMSG || r == -ENOENT || r == -ENOMEM;
}

/* All answers are entries that make sense, or clean errors; and they come to an end. */
static void ask_hostile(const char *path, uint64_t ids)
{
    struct seen seen = {0};
    struct index *index cleanup_index = NULL;
    int r = index_open(path, &index, NULL);
    assert_true(r == 0 || r == -ENODATA || r == -ENOMEM);
    if (r < 0)
        return;
    for (uint64_t id = 0; id < ids; id++) {
        assert_true(is_clean(index_get(index, id, take_any, &seen, NULL)));
        r = index_list(index, id, NULL, 1000, take_any, &seen, NULL);
        assert_true(is_clean(r) && r <= 1000);
        assert_true(is_clean(index_find(index, id, "00001", take_any, &seen, NULL)));
    }
    assert_true(is_clean(index_frames(index, take_any_key, &seen, NULL)));
}

static void hostile_bytes(void **state)
{
    (void)state;
    struct tree *tree = make_random_tree(40);
    struct buf whole cleanup_buf;
    must_write(tree, "whole");
    read_whole("whole", &whole);
    size_t db_bytes = whole.len / PAGEFILE_PAGE_BYTES * PAGEFILE_PAGE_BYTES;
    cleanup_free char *copy = malloc(db_bytes);
    assert_non_null(copy);
    for (int i = 0; i < 2000; i++) {
        memcpy(copy, whole.data, db_bytes);
        for (uint64_t n = 1 + random_below(8); n > 0; n--)
            copy[random_below(db_bytes)] = (char)random_below(256);
        if (i % 4 == 0) { /* one page in another's place */
            size_t pages = db_bytes / PAGEFILE_PAGE_BYTES;
            memcpy(copy + random_below(pages) * PAGEFILE_PAGE_BYTES,
                   whole.data + random_below(pages) * PAGEFILE_PAGE_BYTES, PAGEFILE_PAGE_BYTES);
        }
        rehash("hostile", copy, db_bytes);
        ask_hostile("hostile", 41);
    }
    tree_done(tree);
}

/* Changes a good index by SQL and asks for what it concerns: the first error. */
static int after_sql(const struct tree *tree, const char *sql, uint64_t id, uint64_t parent)
{
    sqlite3 *db;
    char *error = NULL;
    struct stat st;
    struct seen seen = {0};
    struct index *index cleanup_index = NULL;
    must_write(tree, "by-sql");
    assert_int_equal(stat("by-sql", &st), 0);
    assert_int_equal(truncate("by-sql", st.st_size / PAGEFILE_PAGE_BYTES * PAGEFILE_PAGE_BYTES), 0);
    assert_int_equal(sqlite3_open("by-sql", &db), SQLITE_OK);
    (void)sqlite3_exec(db, "PRAGMA journal_mode=OFF; PRAGMA writable_schema=ON", NULL, NULL, NULL);
    if (sqlite3_exec(db, sql, NULL, NULL, &error) != SQLITE_OK)
        fail_msg("%s: %s", sql, error);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    assert_int_equal(pagefile_finish("by-sql", NULL), 0);
    int r = index_open("by-sql", &index, NULL);
    if (r == 0)
        r = index_get(index, id, take_any, &seen, NULL);
    if (r == 0)
        r = index_list(index, parent, NULL, 1000, take_any, &seen, NULL);
    if (r >= 0)
        r = index_frames(index, take_any_key, &seen, NULL);
    return r;
}

static void hostile_values(void **state)
{
    (void)state;
    static const char *const of_entry_1[] = {
        "parent=1",
        "parent=-1",
        "parent=2",
        "parent='a'",
        "target=2",
        "target=NULL",
        "target=-1",
        "target=1.5",
        "name=NULL",
        "name=''",
        "name='text'",
        "name=x'2e'",
        "name=x'2e2e'",
        "name=x'612f62'",
        "name=x'6100'",
        "name=zeroblob(300)",
        "name=5",
        "mode=0",
        "mode=33188.5",
        "mode=4294967296",
        "mode=-1",
        "mode=x'00'",
        "mode=16877|65536",
        "mode=49152",
        "nlink=-1",
        "uid=4294967296",
        "gid='a'",
        "size=-1",
        "size=9223372036854775808",
        "mtime_s='a'",
        "mtime_s=1.5",
        "mtime_ns=1000000000",
        "mtime_ns=-1",
        "rdev_major=4294967296",
        "rdev_minor=NULL",
        "offset=-1",
        "offset=NULL",
        "link_target=x'61'",
        "link_target='a'",
        "xattrs=x'00'",
        "xattrs=x'0000000000000000'",
        "xattrs=x'01000000000000000000'",
        "xattrs=zeroblob(2000000)",
        "xattrs=7",
        "extents=x'00'",
        "extents='text'",
        "extents=zeroblob(16)",
        "extents=x'ffffffffffffffff0100000000000000'",
        "extents=x'0000000000000000ffffffffffffffff'",
        "extents=zeroblob(17000000)",
    };
    struct tree *tree = make_small_tree();
    for (size_t i = 0; i < sizeof(of_entry_1) / sizeof(of_entry_1[0]); i++) {
        char sql[256];
        (void)snprintf(sql, sizeof(sql), "UPDATE entry SET %s WHERE id=1", of_entry_1[i]);
        int r = after_sql(tree, sql, 1, 0);
        if (r != -EBADMSG)
            fail_msg("%s: %d", sql, r);
    }
    tree_done(tree);
}

static void hostile_structure(void **state)
{
    (void)state;
    static const struct {
        const char *sql;
        uint64_t id;
        uint64_t parent;
        int wanted;
    } table[] = {
        {"SELECT 1", 10, 9, 0}, /* so that the others are told apart */
        {"UPDATE entry SET target=9 WHERE id=10", 10, 9, -EBADMSG},  /* a directory's */
        {"UPDATE entry SET target=8 WHERE id=10", 10, 9, -EBADMSG},  /* nobody's */
        {"UPDATE entry SET target=10 WHERE id=11", 11, 9, -EBADMSG}, /* a second one's */
        {"UPDATE entry SET target=10 WHERE id=11; UPDATE entry SET mode=33188, nlink=1, uid=0, "
         "gid=0, size=0, mtime_s=0, mtime_ns=0, rdev_major=0, rdev_minor=0, offset=0 WHERE id=10",
         11, 9, -EBADMSG}, /* the same, with all that a first one has */
        {"UPDATE entry SET target=10 WHERE id=10", 10, 9, -EBADMSG}, /* its own, without one */
        {"UPDATE entry SET link_target=NULL WHERE id=4", 4, 0, -EBADMSG},
        {"UPDATE entry SET link_target=zeroblob(3) WHERE id=4", 4, 0, -EBADMSG},
        {"UPDATE entry SET link_target=CAST(printf('%.*c', 4096, 'x') AS BLOB) WHERE id=4", 4, 0,
         -EBADMSG},
        {"UPDATE entry SET mode=33188 WHERE id=0", 0, 0, -EBADMSG},
        {"UPDATE entry SET id=-1 WHERE id=1", 0, 0, -EBADMSG},
        {"UPDATE frame SET key=x'00' WHERE number=3", 0, 0, -EBADMSG},
        {"UPDATE frame SET key=NULL WHERE number=3", 0, 0, -EBADMSG},
        {"UPDATE frame SET number=-3 WHERE number=3", 0, 0, -EBADMSG},
        {"UPDATE meta SET value=2 WHERE key='version'", 0, 0, -ENODATA},
        {"UPDATE meta SET value='1' WHERE key='version'", 0, 0, -ENODATA},
        {"UPDATE meta SET value=NULL WHERE key='archive_bytes'", 0, 0, -ENODATA},
        {"DELETE FROM meta WHERE key='seal'", 0, 0, -ENODATA},
        {"UPDATE meta SET value=zeroblob(31) WHERE key='sha256'", 0, 0, -ENODATA},
        {"UPDATE meta SET value=zeroblob(33) WHERE key='sha256'", 0, 0, -ENODATA},
        {"UPDATE meta SET value=zeroblob(16) WHERE key='consistency'", 0, 0, -ENODATA},
        {"DROP TABLE frame", 0, 0, -ENODATA},
        {"DROP INDEX entry_name", 0, 0, -ENODATA},
        {"CREATE TABLE more(a)", 0, 0, -ENODATA},
        {"DROP TABLE frame; CREATE VIEW frame AS WITH RECURSIVE n(number, key) AS (SELECT 1, 2 "
         "UNION ALL SELECT number+1, 2 FROM n) SELECT * FROM n",
         0, 0, -ENODATA},
        {"ALTER TABLE entry ADD COLUMN more AS (abs(id))", 0, 0, -ENODATA},
        {"ALTER TABLE entry RENAME COLUMN mode TO modus", 0, 0, -ENODATA},
        {"CREATE TRIGGER t AFTER INSERT ON entry BEGIN DELETE FROM entry; END", 0, 0, -ENODATA},
        {"PRAGMA journal_mode=WAL", 0, 0, 0}, /* nothing to a file that does not change */
        {"UPDATE sqlite_master SET rootpage=2 WHERE name='entry'", 0, 0, -EBADMSG},
        {"UPDATE sqlite_master SET rootpage=100000 WHERE name='entry'", 0, 0, -ENODATA},
        {"UPDATE sqlite_master SET sql='CREATE TABLE frame(number, key' WHERE name='frame'", 0, 0,
         -ENODATA},
    };
    struct tree *tree = make_small_tree();
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        int r = after_sql(tree, table[i].sql, table[i].id, table[i].parent);
        if (r != table[i].wanted)
            fail_msg("%s: %d, not %d", table[i].sql, r, table[i].wanted);
    }
    tree_done(tree);
}

/* ---- full disks ------------------------------------------------------------------- */

static void full_disk(void **state)
{
    (void)state;
    struct tree *tree = make_random_tree(TREE_MAX);
    assert_int_equal(mkdir("small", 0700), 0);
    if (mount("none", "small", "tmpfs", 0, "size=64k") < 0) {
        tree_done(tree);
        skip(); /* that takes root */
    }
    static const char *const sizes[] = {"8k", "64k", "128k", "256k", "320k", "1m"};
    int last = -ENOSPC;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        char options[32];
        struct fail why = FAIL_INIT;
        (void)snprintf(options, sizeof(options), "size=%s", sizes[i]);
        (void)unlink("small/index");
        assert_int_equal(mount("none", "small", NULL, MS_REMOUNT, options), 0);
        new_file("small/index");
        last = write_tree(tree, "small/index", &why);
        assert_true(last == 0 || last == -ENOSPC);
        assert_true((last < 0) == (why.text[0] != '\0'));
    }
    assert_int_equal(last, 0);
    check_index("small/index", tree);
    assert_int_equal(umount("small"), 0);
    tree_done(tree);
}

/* ---- threads --------------------------------------------------------------------- */

struct asker {
    struct index *index;
    const struct tree *tree;
    size_t wrong;
};

static void *ask_in_thread(void *data)
{
    struct asker *asker = data;
    for (size_t i = 0; i < asker->tree->count; i++) {
        struct seen seen = {.tree = asker->tree};
        if (index_get(asker->index, asker->tree->nodes[i]->entry.id, see, &seen, NULL) < 0)
            asker->wrong++;
        asker->wrong += seen.wrong;
    }
    return NULL;
}

static void many_threads(void **state)
{
    (void)state;
    struct tree *tree = make_random_tree(400);
    struct index *index cleanup_index = NULL;
    pthread_t threads[8];
    struct asker askers[8];
    must_write(tree, "threads");
    assert_int_equal(index_open("threads", &index, NULL), 0);
    for (size_t i = 0; i < 8; i++) {
        askers[i] = (struct asker){index, tree, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, ask_in_thread, &askers[i]), 0);
    }
    for (size_t i = 0; i < 8; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(askers[i].wrong, 0);
    }
    tree_done(tree);
}

/* ---- many entries ----------------------------------------------------------------- */

static double seconds(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int count_entry(void *data, const struct index_entry *entry)
{
    *(uint64_t *)data += entry->id > 0;
    return 0;
}

/* That many entries in directories of 100; times are printed, and to be looked at. */
static void many_entries(void **state)
{
    (void)state;
    const char *wanted = getenv("DVOLFS_TEST_ENTRIES");
    uint64_t count = wanted ? strtoull(wanted, NULL, 10) : 20000;
    struct index_writer *writer cleanup_index_writer = NULL;
    struct index *index cleanup_index = NULL;
    struct index_about about = {.consistency = "live"};
    struct index_entry entry = {0};
    struct stat st;
    char name[64] = "";
    uint64_t seen = 0;
    double begun = seconds();
    new_file("many");
    assert_int_equal(index_writer_new("many", &writer, NULL), 0);
    for (uint64_t id = 0; id < count; id++) {
        bool is_dir = id % 100 == 0;
        if (id > 0)
            (void)snprintf(name, sizeof(name), "%s-%010" PRIu64 ".dat", is_dir ? "d" : "file", id);
        entry.id = entry.target = id;
        entry.parent = is_dir ? 0 : id - id % 100;
        entry.offset = id * 2048;
        entry.file = (struct file){.name = name, .link_target = "", .xattrs = "", .extents = ""};
        entry.file.stat = (struct file_stat){.mode = is_dir ? S_IFDIR | 0755 : S_IFREG | 0644,
                                             .nlink = 1,
                                             .uid = 1000,
                                             .gid = 1000,
                                             .size_bytes = 1500,
                                             .mtime = {1700000000 + (int64_t)id, 123456789}};
        assert_int_equal(index_add(writer, &entry, NULL, NULL), 0);
    }
    assert_int_equal(index_finish(writer, &about, NULL), 0);
    double built = seconds();
    assert_int_equal(stat("many", &st), 0);
    assert_int_equal(index_open("many", &index, NULL), 0);
    double opened = seconds();
    assert_int_equal(index_list(index, count / 2, NULL, 1000, count_entry, &seen, NULL), 99);
    double listed = seconds();
    uint64_t of_root = (count - 1) / 100 + 99;
    assert_int_equal(index_list(index, 0, NULL, UINT_MAX, count_entry, &seen, NULL), of_root);
    print_message("%" PRIu64 " entries: built in %.2f s, %.1f bytes each; opened in %.2f ms, a "
                  "directory of 99 listed in %.2f ms, one of %" PRIu64 " in %.2f ms\n",
                  count, built - begun, (double)st.st_size / (double)count, (opened - built) * 1e3,
                  (listed - opened) * 1e3, of_root, (seconds() - listed) * 1e3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_kind),          cmocka_unit_test(what_is_not_there),
        cmocka_unit_test(random_trees),       cmocka_unit_test(is_a_database),
        cmocka_unit_test(removed_while_open), cmocka_unit_test(refuses),
        cmocka_unit_test(unfinished),         cmocka_unit_test(cut_short),
        cmocka_unit_test(flipped_bits),       cmocka_unit_test(damaged_while_open),
        cmocka_unit_test(hostile_bytes),      cmocka_unit_test(hostile_values),
        cmocka_unit_test(hostile_structure),  cmocka_unit_test(full_disk),
        cmocka_unit_test(many_threads),       cmocka_unit_test(many_entries),
    };
    return cmocka_run_group_tests(tests, enter_test_dir, leave_test_dir);
}
