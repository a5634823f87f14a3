/* SPDX-License-Identifier: MIT */
/* What the tests of tar/vtar.h share: a tree as the source of an archive, its layout, and
 * reading all of it. */
#ifndef DVOLFS_TESTS_UNIT_TEST_VTAR_H
#define DVOLFS_TESTS_UNIT_TEST_VTAR_H

#include "test-tar.h"

#include "agent/beneath.h"
#include "agent/walk.h"
#include "base/fd.h"
#include "tar/check.h"
#include "tar/vtar.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

/* ---- a real tree as source ------------------------------------------------------------ */

/* A directory, the source that reads it, and what was seen of that. */
struct world {
    int root;
    atomic_int open_now, open_most;
    atomic_size_t opens, preads, closes;
    pthread_mutex_t lock; /* of told and expected */
    struct buf told;      /* lines */
    struct buf expected;
    size_t expected_room;           /* how many more it takes */
    const char *_Atomic fails_path; /* this file cannot be opened: EIO */
    atomic_bool fails_pread;
};

static inline void set_most(struct world *world, int now)
{
    int most = atomic_load(&world->open_most);
    while (now > most && !atomic_compare_exchange_weak(&world->open_most, &most, now))
        ;
}

static inline int world_open(void *data, const char *path, uint64_t dev, uint64_t ino,
                             struct cancel *cancel, void **ret_file, struct fail *why)
{
    (void)cancel;
    struct world *world = data;
    struct stat st;
    const char *fails = world->fails_path;
    atomic_fetch_add(&world->opens, 1);
    if (fails && strcmp(fails, path) == 0)
        return fail_set(why, EIO, "%s: the disk is broken", path);
    int fd = beneath_open(world->root, path, O_RDONLY | O_NONBLOCK);
    if (fd < 0)
        return fail_set(why, -fd, "%s: no such luck", path);
    assert_int_equal(fstat(fd, &st), 0);
    if (st.st_dev != dev || st.st_ino != ino || !S_ISREG(st.st_mode)) {
        (void)close(fd);
        return fail_set(why, ESTALE, "%s: another file", path);
    }
    set_most(world, atomic_fetch_add(&world->open_now, 1) + 1);
    *ret_file = (void *)(intptr_t)(fd + 1);
    return 0;
}

static inline ssize_t world_pread(void *data, void *file, void *buf, size_t len, uint64_t offset,
                                  struct cancel *cancel, struct fail *why)
{
    (void)cancel;
    struct world *world = data;
    atomic_fetch_add(&world->preads, 1);
    if (world->fails_pread)
        return fail_set(why, EIO, "the disk broke");
    return fd_pread_full((int)(intptr_t)file - 1, buf, len, offset);
}

static inline void world_close(void *data, void *file)
{
    struct world *world = data;
    atomic_fetch_add(&world->closes, 1);
    atomic_fetch_sub(&world->open_now, 1);
    assert_int_equal(close((int)(intptr_t)file - 1), 0);
}

static inline void world_affected(void *data, const char *path, const char *what)
{
    struct world *world = data;
    scoped_lock(&world->lock);
    assert_int_equal(buf_printf(&world->told, "%s %s\n", path, what), 0);
}

static inline bool world_expect(void *data, const char *path, uint64_t dev, uint64_t ino,
                                uint64_t size_bytes)
{
    struct world *world = data;
    struct stat st;
    scoped_lock(&world->lock);
    if (world->expected_room == 0)
        return false;
    world->expected_room--;
    assert_int_equal(fstatat(world->root, path, &st, AT_SYMLINK_NOFOLLOW), 0);
    assert_true(st.st_dev == dev && st.st_ino == ino && (uint64_t)st.st_size == size_bytes);
    assert_int_equal(buf_printf(&world->expected, "%s\n", path), 0);
    return true;
}

static inline void world_init(struct world *world, const char *path)
{
    *world = (struct world){.root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    assert_true(world->root >= 0);
    assert_int_equal(pthread_mutex_init(&world->lock, NULL), 0);
    buf_init(&world->told, LISTING_MAX);
    buf_init(&world->expected, LISTING_MAX);
}

static inline void world_done(struct world *world)
{
    assert_int_equal(world->open_now, 0);
    assert_true(world->open_most <= VTAR_MAX_OPEN);
    (void)close(world->root);
    (void)pthread_mutex_destroy(&world->lock);
    buf_done(&world->told);
    buf_done(&world->expected);
}

static inline struct vtar *vtar_of(struct world *world, const struct layout *layout)
{
    struct vtar_source source = {.open = world_open,
                                 .pread = world_pread,
                                 .close = world_close,
                                 .affected = world_affected,
                                 .data = world};
    struct vtar *vtar = vtar_new(layout, &source);
    assert_non_null(vtar);
    return vtar;
}

/* ---- a layout of a tree -------------------------------------------------------------------- */

static inline void copy_xattrs(const struct file *file, struct tar_entry *entry)
{
    size_t position = 0;
    const char *name;
    const void *value;
    size_t bytes;
    while (file_xattr_next(file, &position, &name, &value, &bytes) > 0)
        assert_int_equal(tar_entry_add_xattr(entry, name, value, bytes), 0);
}

static inline void copy_extents(const struct file *file, struct tar_entry *entry)
{
    entry->extents = calloc(file->extent_count + 1, sizeof(*entry->extents));
    assert_non_null(entry->extents);
    for (size_t i = 0; i < file->extent_count; i++) {
        struct file_extent extent = file_extent_at(file, i);
        entry->extents[i] = (struct tar_extent){extent.offset, extent.bytes};
    }
    entry->extent_count = file->extent_count;
}

static inline struct tar_entry entry_of_file(const struct file *file)
{
    struct tar_entry entry = {
        .name = strdup(file->name),
        .link_target = S_ISLNK(file->stat.mode) ? strdup(file->link_target) : NULL,
        .mode = file->stat.mode,
        .uid = file->stat.uid,
        .gid = file->stat.gid,
        .mtime_s = file->stat.mtime.s,
        .mtime_ns = file->stat.mtime.ns,
        .size_bytes = S_ISREG(file->stat.mode) ? file->stat.size_bytes : 0,
        .dev_major = file->stat.rdev_major,
        .dev_minor = file->stat.rdev_minor,
    };
    copy_xattrs(file, &entry);
    if (file->is_sparse)
        copy_extents(file, &entry);
    return entry;
}

/* Calls fn for every file of the tree. */
static inline void for_each_file(int root, void (*fn)(void *data, const struct file *file),
                                 void *data)
{
    struct walk *walk cleanup_walk = walk_new(root, INSPECT_EXTENTS | INSPECT_XATTRS);
    struct buf records cleanup_buf;
    int r;
    buf_init(&records, BYTES_MAX);
    while ((r = walk_next(walk, 1 << 16, &records)) > 0) {
        struct file file;
        for (size_t at = 0; file_read(records.data, records.len, &at, &file) > 0;)
            fn(data, &file);
        buf_clear(&records);
    }
    assert_int_equal(r, 0);
}

static inline void add_file(void *data, const struct file *file)
{
    struct tar_entry entry cleanup_tar_entry = entry_of_file(file);
    struct layout_identity identity = {.dev = file->stat.dev,
                                       .ino = file->stat.ino,
                                       .nlink = file->stat.nlink,
                                       .ctime_s = file->stat.ctime.s,
                                       .ctime_ns = file->stat.ctime.ns};
    assert_int_equal(layout_add(data, &entry, &identity), 0);
}

static inline struct layout *layout_of(const struct world *world)
{
    struct layout *layout = layout_new();
    assert_non_null(layout);
    for_each_file(world->root, add_file, layout);
    layout_finish(layout);
    return layout;
}

/* The slot of a path. */
static inline struct layout_slot slot_of(const struct layout *layout, const char *wanted)
{
    struct layout_slot slot;
    for (size_t i = 0; i < layout_count(layout); i++) {
        struct buf path cleanup_buf;
        buf_init(&path, 1 << 20);
        assert_int_equal(layout_path(layout, i, &path), 0);
        layout_slot(layout, i, &slot);
        if (strcmp(path.data, wanted) == 0)
            return slot;
    }
    fail_msg("no %s", wanted);
    return slot;
}

/* ---- making trees -------------------------------------------------------------------------- */

static inline void write_file(const char *path, size_t bytes, unsigned seed)
{
    char *data = malloc(bytes + 1);
    for (size_t i = 0; i < bytes; i++)
        data[i] = (char)((seed = seed * 1103515245 + 12345) >> 16);
    spill(path, data, bytes);
    free(data);
}

static inline void set_time(const char *path, time_t s, long ns)
{
    struct timespec times[2] = {{s, ns}, {s, ns}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW), 0);
}

/* What every tar can do. */
static inline void make_plain_tree(const char *top)
{
    shell("rm -rf %s && mkdir -p %s/dir/below %s/empty", top, top, top);
    assert_int_equal(chdir(top), 0);
    const size_t sizes[] = {0, 1, 511, 512, 513, 14000, 65536, 300001};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        char name[64];
        (void)snprintf(name, sizeof(name), "dir/file-%zu", sizes[i]);
        write_file(name, sizes[i], (unsigned)i);
        set_time(name, 1600000000 + (time_t)i, 0);
    }
    write_file("dir/below/timed", 700, 5);
    write_file("after", 1000, 6);
    shell("ln dir/file-14000 hard && ln dir/file-0 hard-empty && ln -s dir/file-1 link");
    shell("ln -s nowhere 'dangling link' && ln link hard-link-to-link && mkfifo fifo");
    shell("chmod 6755 dir/file-511 && chmod 0 dir/file-512 && chmod 1777 empty");
    if (geteuid() == 0) {
        shell("chown 1000:1001 dir/file-1 && chown -h 5:6 link && chown 2097151:3 dir");
        shell("mknod char c 1 3; mknod block b 7 200; true"); /* a sandbox may forbid it */
    }
    set_time("dir/below/timed", 1500000000, 123456789);
    set_time("link", 1400000000, 500000000);
    set_time("dir", 1300000000, 250000000);
    set_time("empty", 1200000000, 0);
    set_time(".", 1100000000, 750000000);
    assert_int_equal(chdir(".."), 0);
}

/* ---- reading ------------------------------------------------------------------------------ */

static inline void must_read(struct vtar *vtar, void *buf, size_t len, uint64_t offset)
{
    struct fail why = FAIL_INIT;
    ssize_t n = vtar_read(vtar, buf, len, offset, NULL, &why);
    if (n != (ssize_t)len)
        fail_msg("%zd of %zu at %" PRIu64 ": %s", n, len, offset, why.text);
    assert_string_equal(why.text, "");
}

/* All of it, in pieces of one size. */
static inline void read_all(struct vtar *vtar, const struct layout *layout, size_t piece,
                            struct buf *out)
{
    uint64_t bytes = layout_bytes(layout);
    buf_init(out, BYTES_MAX);
    assert_int_equal(buf_add_zeros(out, bytes), 0);
    memset(out->data, 'U', bytes); /* and what is not written shows */
    for (uint64_t at = 0; at < bytes; at += piece)
        must_read(vtar, out->data + at, piece < bytes - at ? piece : bytes - at, at);
    char byte;
    assert_int_equal(vtar_read(vtar, &byte, 1, bytes, NULL, NULL), 0);
    assert_int_equal(vtar_read(vtar, &byte, 1, UINT64_MAX, NULL, NULL), 0);
}

static inline void assert_same(const struct buf *got, const struct buf *wanted)
{
    assert_int_equal(got->len, wanted->len);
    for (size_t i = 0; i < got->len; i++)
        if (got->data[i] != wanted->data[i])
            fail_msg("differs at %zu", i);
}

/* Our own reader is stricter than any of them. */
static inline void must_check_out(const struct buf *archive, uint64_t members)
{
    struct tar_check *check cleanup_tar_check = NULL;
    int fd cleanup_close = open_bytes(archive->data, archive->len);
    struct fail why = FAIL_INIT;
    if (tar_check_run(fd, UINT64_MAX, NULL, &check, &why) < 0)
        fail_msg("%s", why.text);
    if (members)
        assert_int_equal(tar_check_members(check), members);
    assert_true(tar_check_has_root(check));
}

/* One of several threads that read. */
struct reader {
    pthread_t thread;
    struct vtar *vtar;
    const struct buf *wanted; /* or NULL */
    struct buf *got;          /* or NULL; each thread its own places */
    unsigned seed;
    unsigned rounds;
    const char *failed;
};

#endif
