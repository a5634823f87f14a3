/* SPDX-License-Identifier: MIT */
#include "check.h"

#include "test-tar.h"

#include "agent/beneath.h"
#include "agent/walk.h"
#include "base/fd.h"
#include "tar/check.h"
#include "tar/vtar.h"

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

static void set_most(struct world *world, int now)
{
    int most = atomic_load(&world->open_most);
    while (now > most && !atomic_compare_exchange_weak(&world->open_most, &most, now))
        ;
}

static int world_open(void *data, const char *path, uint64_t dev, uint64_t ino,
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

static ssize_t world_pread(void *data, void *file, void *buf, size_t len, uint64_t offset,
                           struct cancel *cancel, struct fail *why)
{
    (void)cancel;
    struct world *world = data;
    atomic_fetch_add(&world->preads, 1);
    if (world->fails_pread)
        return fail_set(why, EIO, "the disk broke");
    return fd_pread_full((int)(intptr_t)file - 1, buf, len, offset);
}

static void world_close(void *data, void *file)
{
    struct world *world = data;
    atomic_fetch_add(&world->closes, 1);
    atomic_fetch_sub(&world->open_now, 1);
    assert_int_equal(close((int)(intptr_t)file - 1), 0);
}

static void world_affected(void *data, const char *path, const char *what)
{
    struct world *world = data;
    scoped_lock(&world->lock);
    assert_int_equal(buf_printf(&world->told, "%s %s\n", path, what), 0);
}

static bool world_expect(void *data, const char *path, uint64_t dev, uint64_t ino,
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

static void world_init(struct world *world, const char *path)
{
    *world = (struct world){.root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    assert_true(world->root >= 0);
    assert_int_equal(pthread_mutex_init(&world->lock, NULL), 0);
    buf_init(&world->told, LISTING_MAX);
    buf_init(&world->expected, LISTING_MAX);
}

static void world_done(struct world *world)
{
    assert_int_equal(world->open_now, 0);
    assert_true(world->open_most <= VTAR_MAX_OPEN);
    (void)close(world->root);
    (void)pthread_mutex_destroy(&world->lock);
    buf_done(&world->told);
    buf_done(&world->expected);
}

static struct vtar *vtar_of(struct world *world, const struct layout *layout)
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

static void copy_xattrs(const struct file *file, struct tar_entry *entry)
{
    size_t position = 0;
    const char *name;
    const void *value;
    size_t bytes;
    while (file_xattr_next(file, &position, &name, &value, &bytes) > 0)
        assert_int_equal(tar_entry_add_xattr(entry, name, value, bytes), 0);
}

static void copy_extents(const struct file *file, struct tar_entry *entry)
{
    entry->extents = calloc(file->extent_count + 1, sizeof(*entry->extents));
    assert_non_null(entry->extents);
    for (size_t i = 0; i < file->extent_count; i++) {
        struct file_extent extent = file_extent_at(file, i);
        entry->extents[i] = (struct tar_extent){extent.offset, extent.bytes};
    }
    entry->extent_count = file->extent_count;
}

static struct tar_entry entry_of_file(const struct file *file)
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
static void for_each_file(int root, void (*fn)(void *data, const struct file *file), void *data)
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

static void add_file(void *data, const struct file *file)
{
    struct tar_entry entry cleanup_tar_entry = entry_of_file(file);
    struct layout_identity identity = {.dev = file->stat.dev,
                                       .ino = file->stat.ino,
                                       .nlink = file->stat.nlink,
                                       .ctime_s = file->stat.ctime.s,
                                       .ctime_ns = file->stat.ctime.ns};
    assert_int_equal(layout_add(data, &entry, &identity), 0);
}

static struct layout *layout_of(const struct world *world)
{
    struct layout *layout = layout_new();
    assert_non_null(layout);
    for_each_file(world->root, add_file, layout);
    layout_finish(layout);
    return layout;
}

/* The slot of a path. */
static struct layout_slot slot_of(const struct layout *layout, const char *wanted)
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

static void write_file(const char *path, size_t bytes, unsigned seed)
{
    char *data = malloc(bytes + 1);
    for (size_t i = 0; i < bytes; i++)
        data[i] = (char)((seed = seed * 1103515245 + 12345) >> 16);
    spill(path, data, bytes);
    free(data);
}

static void set_time(const char *path, time_t s, long ns)
{
    struct timespec times[2] = {{s, ns}, {s, ns}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW), 0);
}

static void write_sparse(const char *path, off_t size, const off_t *offsets, size_t count)
{
    int fd cleanup_close = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(pwrite(fd, "some data", 9, offsets[i]), 9);
    assert_int_equal(ftruncate(fd, size), 0);
}

/* What every tar can do. */
static void make_plain_tree(const char *top)
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

static void make_sparse_files(void)
{
    off_t offsets[3000];
    for (size_t i = 0; i < 3000; i++)
        offsets[i] = (off_t)i * 65536;
    write_sparse("sparse-all-hole", 1 << 20, offsets, 0);
    write_sparse("sparse-hole-at-end", 5 << 20, offsets + 3, 1);
    write_sparse("sparse-begins-with-data", 65536 * 2 + 9, offsets, 3);
    write_sparse("sparse-many", 3000 * 65536, offsets, 3000);
    write_sparse("sparse-big", (off_t)5 << 30, offsets + 2998, 2);
    assert_int_equal(link("sparse-many", "sparse-many-2"), 0);
}

static void make_long_names(void)
{
    char name[256];
    memset(name, 'l', 255);
    name[255] = '\0';
    write_file(name, 100, 9);
    assert_int_equal(link(name, "hard-link-to-long"), 0);
    shell("mkdir -p %.200s/%s/%s", name, name, name);
    shell("cd %.200s/%s/%s && echo deep > %s && ln %s 2", name, name, name, name, name);
    shell("ln -s %s/%s/%s link-to-long", name, name, name);
    write_file("new\nline", 10, 1);
    write_file("not utf-8 \xff\xfe", 10, 1);
    write_file("utf-8 \xc3\xa9", 10, 1);
}

/* Where the file system has them. */
static void make_attributes(void)
{
    (void)setxattr("after", "user.binary", "\0\n=%3D\xff", 7, 0);
    (void)setxattr("after", "user.a=b", "c", 1, 0);
    (void)setxattr("dir", "user.on.dir", "1", 1, 0);
    (void)setxattr("sparse-many", "user.on.sparse", "2", 1, 0);
    (void)lsetxattr("link", "trusted.on.link", "3", 1, 0);
    (void)setxattr(
        "dir/file-1", "security.capability",
        "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 20, 0);
    shell("setfacl -m u:1234:rw,g:4321:x after 2>/dev/null; true");
    shell("setfacl -m u:1234:rwx,d:u:77:r-x,d:g::rw dir 2>/dev/null; true");
}

/* What only some tars can do as well. */
static void make_full_tree(const char *top)
{
    make_plain_tree(top);
    assert_int_equal(chdir(top), 0);
    make_sparse_files();
    make_long_names();
    make_attributes();
    if (geteuid() == 0)
        shell("chown 4000000000:3000000000 'new\nline'");
    set_time("new\nline", -5, 250000000);
    set_time("utf-8 \xc3\xa9", INT64_C(1) << 33, 0);
    set_time(".", 1100000000, 750000000);
    assert_int_equal(chdir(".."), 0);
}

/* ---- reading ------------------------------------------------------------------------------ */

static void must_read(struct vtar *vtar, void *buf, size_t len, uint64_t offset)
{
    struct fail why = FAIL_INIT;
    ssize_t n = vtar_read(vtar, buf, len, offset, NULL, &why);
    if (n != (ssize_t)len)
        fail_msg("%zd of %zu at %" PRIu64 ": %s", n, len, offset, why.text);
    assert_string_equal(why.text, "");
}

/* All of it, in pieces of one size. */
static void read_all(struct vtar *vtar, const struct layout *layout, size_t piece, struct buf *out)
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

static void assert_same(const struct buf *got, const struct buf *wanted)
{
    assert_int_equal(got->len, wanted->len);
    for (size_t i = 0; i < got->len; i++)
        if (got->data[i] != wanted->data[i])
            fail_msg("differs at %zu", i);
}

static void test_pieces_of_any_size(unused_arg void **state)
{
    struct world world;
    make_full_tree("tree");
    world_init(&world, "tree");
    struct layout *layout = layout_of(&world);
    const size_t pieces[] = {SIZE_MAX, 1 << 20, 131072, 65536, 4096, 999};
    struct buf whole cleanup_buf = {0};
    for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
        struct vtar *vtar cleanup_vtar = vtar_of(&world, layout);
        struct buf again cleanup_buf;
        read_all(vtar, layout, pieces[i], &again);
        if (i > 0)
            assert_same(&again, &whole);
        else
            read_all(vtar, layout, SIZE_MAX, &whole);
        assert_int_equal(vtar_affected(vtar), 0);
    }
    assert_string_equal(buf_string(&world.told), "");
    layout_free(layout);
    world_done(&world);
}

static void test_bytes_around_boundaries(unused_arg void **state)
{
    struct world world;
    make_full_tree("tree");
    world_init(&world, "tree");
    struct layout *layout = layout_of(&world);
    struct vtar *vtar = vtar_of(&world, layout);
    struct buf whole cleanup_buf;
    read_all(vtar, layout, 1 << 20, &whole);
    for (size_t i = 0; i < layout_count(layout); i++) {
        struct layout_slot slot;
        layout_slot(layout, i, &slot);
        const uint64_t edges[] = {slot.offset, slot.offset + slot.header_bytes,
                                  slot.offset + slot.header_bytes + slot.data_bytes,
                                  slot.offset + slot.slot_bytes};
        for (size_t k = 0; k < 4; k++)
            for (uint64_t at = edges[k] < 3 ? 0 : edges[k] - 3; at < edges[k] + 3; at++)
                for (size_t len = 1; len <= 4; len += 3) {
                    char bytes[4];
                    must_read(vtar, bytes, len, at);
                    assert_memory_equal(bytes, whole.data + at, len);
                }
    }
    char last[8];
    assert_int_equal(vtar_read(vtar, last, sizeof(last), whole.len - 3, NULL, NULL), 3);
    vtar_free(vtar);
    layout_free(layout);
    world_done(&world);
}

/* ---- many threads ---------------------------------------------------------------------------- */

struct reader {
    pthread_t thread;
    struct vtar *vtar;
    const struct buf *wanted; /* or NULL */
    struct buf *got;          /* or NULL; each thread its own places */
    unsigned seed;
    unsigned rounds;
    const char *failed;
};

static void *read_anywhere(void *data)
{
    struct reader *reader = data;
    size_t most = 300000;
    char *bytes = malloc(most);
    for (unsigned i = 0; i < reader->rounds && !reader->failed; i++) {
        size_t at = (size_t)rand_r(&reader->seed) % reader->wanted->len;
        size_t len = (size_t)rand_r(&reader->seed) % (i % 4 ? 5000 : most);
        size_t left = reader->wanted->len - at;
        ssize_t n = vtar_read(reader->vtar, bytes, len, at, NULL, NULL);
        if (n != (ssize_t)(len < left ? len : left))
            reader->failed = "the length is wrong";
        else if (memcmp(bytes, reader->wanted->data + at, (size_t)n) != 0)
            reader->failed = "the bytes are wrong";
    }
    free(bytes);
    return NULL;
}

static void run_readers(struct reader *readers, size_t count, void *(*fn)(void *))
{
    for (size_t i = 0; i < count; i++)
        assert_int_equal(pthread_create(&readers[i].thread, NULL, fn, &readers[i]), 0);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(pthread_join(readers[i].thread, NULL), 0);
        if (readers[i].failed)
            fail_msg("%s", readers[i].failed);
    }
}

static void test_threads_read_the_same(unused_arg void **state)
{
    struct world world;
    make_plain_tree("tree");
    for (unsigned i = 0; i < 60; i++) { /* far more than may be open */
        char name[64];
        (void)snprintf(name, sizeof(name), "tree/many-%u", i);
        write_file(name, 3000 + i * 997, i);
    }
    world_init(&world, "tree");
    struct layout *layout = layout_of(&world);
    struct vtar *vtar = vtar_of(&world, layout);
    struct buf whole cleanup_buf;
    read_all(vtar, layout, 1 << 20, &whole);
    struct reader readers[24];
    for (size_t threads = 4; threads <= 24; threads += 20) {
        for (size_t i = 0; i < threads; i++)
            readers[i] = (struct reader){.vtar = vtar,
                                         .wanted = &whole,
                                         .seed = (unsigned)i + 1,
                                         .rounds = threads == 4 ? 2000 : 200};
        run_readers(readers, threads, read_anywhere);
    }
    assert_int_equal(vtar_affected(vtar), 0);
    vtar_free(vtar);
    layout_free(layout);
    world_done(&world);
}

/* ---- other programs unpack it -------------------------------------------------------------------
 */

enum {
    SAYS_NS = 1 << 0,        /* times have nanoseconds */
    SAYS_DIR_TIMES = 1 << 1, /* of directories too */
    SAYS_XATTRS = 1 << 2,
    SAYS_HOLES = 1 << 3,
    SAYS_LINK_TIMES = 1 << 4, /* of symlinks */
    SAYS_ALL = 31
};

struct description {
    int root;
    unsigned says;
    struct buf lines;
    struct {
        uint64_t ino;
        char *name;
    } firsts[200];
    size_t first_count;
};

static const char *first_name(struct description *d, const struct file *file)
{
    for (size_t i = 0; i < d->first_count; i++)
        if (d->firsts[i].ino == file->stat.ino)
            return d->firsts[i].name;
    assert_true(d->first_count < 200);
    d->firsts[d->first_count].ino = file->stat.ino;
    d->firsts[d->first_count++].name = strdup(file->name);
    return file->name;
}

static uint64_t crc_of(int root, const struct file *file)
{
    static char piece[1 << 20];
    uint64_t crc = 0;
    int fd cleanup_close = beneath_open(root, file->name, O_RDONLY | O_NONBLOCK);
    assert_true(fd >= 0);
    size_t known = file->is_sparse ? file->extent_count : 1;
    for (size_t i = 0; i < known; i++) { /* of the data; the holes are in the size */
        struct file_extent extent = file->is_sparse
                                        ? file_extent_at(file, i)
                                        : (struct file_extent){0, file->stat.size_bytes};
        for (uint64_t at = 0; at < extent.bytes; at += sizeof(piece)) {
            uint64_t left = extent.bytes - at;
            ssize_t n = fd_pread_full(fd, piece, left < sizeof(piece) ? left : sizeof(piece),
                                      extent.offset + at);
            assert_true(n > 0);
            for (ssize_t k = 0; k < n; k++) /* holes that were filled do not show */
                if (piece[k])
                    crc = crc32(crc, (unsigned char *)piece + k, 1) + extent.offset + at +
                          (uint64_t)k;
        }
    }
    return crc;
}

static void add_times(struct description *d, const struct file *file)
{
    bool says_time = S_ISDIR(file->stat.mode)   ? d->says & SAYS_DIR_TIMES
                     : S_ISLNK(file->stat.mode) ? d->says & SAYS_LINK_TIMES
                                                : true;
    if (says_time)
        assert_int_equal(buf_printf(&d->lines, " %" PRId64 ".%09u", file->stat.mtime.s,
                                    d->says & SAYS_NS ? file->stat.mtime.ns : 0),
                         0);
}

static int by_name(const void *left, const void *right)
{
    const struct tar_xattr *a = left;
    const struct tar_xattr *b = right;
    return strcmp(a->name, b->name);
}

static void add_xattrs(struct description *d, const struct file *file)
{
    struct tar_entry entry cleanup_tar_entry = {0};
    copy_xattrs(file, &entry);
    if (entry.xattr_count)
        qsort(entry.xattrs, entry.xattr_count, sizeof(*entry.xattrs), by_name);
    for (size_t i = 0; d->says & SAYS_XATTRS && i < entry.xattr_count; i++) {
        assert_int_equal(buf_printf(&d->lines, " %s=", entry.xattrs[i].name), 0);
        add_hex(&d->lines, entry.xattrs[i].value, entry.xattrs[i].value_bytes);
    }
}

static void describe_file(void *data, const struct file *file)
{
    struct description *d = data;
    const struct file_stat *st = &file->stat;
    add_hex(&d->lines, file->name, strlen(file->name));
    assert_int_equal(buf_printf(&d->lines, " %o %u:%u %" PRIu64 " %u,%u -> ", st->mode, st->uid,
                                st->gid, S_ISDIR(st->mode) ? 0 : st->size_bytes, st->rdev_major,
                                st->rdev_minor),
                     0);
    add_hex(&d->lines, file->link_target, strlen(file->link_target));
    if (st->nlink > 1 && !S_ISDIR(st->mode)) {
        assert_int_equal(buf_add_string(&d->lines, " is "), 0);
        const char *first = first_name(d, file);
        add_hex(&d->lines, first, strlen(first));
    }
    add_times(d, file);
    add_xattrs(d, file);
    if (S_ISREG(st->mode))
        assert_int_equal(buf_printf(&d->lines, " crc %" PRIx64, crc_of(d->root, file)), 0);
    for (size_t i = 0; d->says & SAYS_HOLES && i < file->extent_count; i++) {
        struct file_extent extent = file_extent_at(file, i);
        assert_int_equal(
            buf_printf(&d->lines, " %" PRIu64 "+%" PRIu64, extent.offset, extent.bytes), 0);
    }
    assert_int_equal(buf_add_string(&d->lines, "\n"), 0);
}

/* A tree as text. */
static void describe(const char *path, unsigned says, struct buf *ret_lines)
{
    struct description d = {.root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), .says = says};
    assert_true(d.root >= 0);
    buf_init(&d.lines, LISTING_MAX);
    for_each_file(d.root, describe_file, &d);
    for (size_t i = 0; i < d.first_count; i++)
        free(d.firsts[i].name);
    (void)close(d.root);
    *ret_lines = d.lines;
}

static void archive_tree(const char *tree, const char *archive)
{
    struct world world;
    world_init(&world, tree);
    struct layout *layout = layout_of(&world);
    struct vtar *vtar = vtar_of(&world, layout);
    struct buf whole cleanup_buf;
    read_all(vtar, layout, 131072, &whole);
    assert_int_equal(vtar_affected(vtar), 0);
    spill(archive, whole.data, whole.len);
    vtar_free(vtar);
    layout_free(layout);
    world_done(&world);
}

static void check_unpacking(const char *tree, const char *command, unsigned says)
{
    struct buf got cleanup_buf;
    struct buf wanted cleanup_buf;
    shell("rm -rf out && mkdir out && cd out && %s", command);
    describe("out", says, &got);
    describe(tree, says, &wanted);
    assert_same_lines(&got, &wanted);
    shell("rm -rf out");
}

#define PYTHON_UNPACK                                                                              \
    "python3 -c \"import tarfile; t = tarfile.open('../a.tar', errors='surrogateescape');"         \
    " t.extraction_filter = lambda m, p: m; t.extractall(numeric_owner=True)\""

static void test_programs_unpack_it(unused_arg void **state)
{
    if (geteuid() != 0)
        skip();
    make_full_tree("tree");
    archive_tree("tree", "a.tar");
    check_unpacking("tree",
                    "tar --numeric-owner --xattrs --xattrs-include='*' --acls"
                    " --warning=no-unknown-keyword --warning=no-timestamp -xpf ../a.tar 2>&1",
                    SAYS_ALL);
    /* bsdtar does not restore the mtime of "." (its own archives' neither), and
     * misreads fractions before 1970 and "=" in names of attributes. */
    set_time("tree/new\nline", -5, 0);
    (void)removexattr("tree/after", "user.a=b");
    archive_tree("tree", "a.tar");
    check_unpacking(
        "tree", "bsdtar --numeric-owner -xpf ../a.tar 2>&1 && touch -d @1100000000.75 .", SAYS_ALL);
    /* python gives what a hard link to a symlink says to the symlink's target. */
    shell("rm tree/hard-link-to-link && touch -d @1100000000.75 tree");
    archive_tree("tree", "a.tar");
    check_unpacking("tree", PYTHON_UNPACK, SAYS_DIR_TIMES | SAYS_HOLES);
    make_plain_tree("tree");
    archive_tree("tree", "a.tar");
    check_unpacking("tree", "tar --numeric-owner -xpf ../a.tar 2>&1", SAYS_ALL);
    shell("chown -h 0:0 tree/link"); /* which busybox leaves alone */
    archive_tree("tree", "a.tar");
    check_unpacking("tree", "busybox tar -xpf ../a.tar", 0);
    shell("rm a.tar");
}

/* Our own reader is stricter than any of them. */
static void must_check_out(const struct buf *archive, uint64_t members)
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

static void test_our_reader_takes_it(unused_arg void **state)
{
    struct world world;
    make_full_tree("tree");
    world_init(&world, "tree");
    struct layout *layout = layout_of(&world);
    struct vtar *vtar = vtar_of(&world, layout);
    struct buf whole cleanup_buf;
    read_all(vtar, layout, 131072, &whole);
    must_check_out(&whole, layout_count(layout));
    vtar_free(vtar);
    layout_free(layout);
    world_done(&world);
}

/* ---- files that change -------------------------------------------------------------------------
 */

/* An archive before and after something happened. */
struct change {
    struct world world;
    struct layout *layout;
    struct vtar *vtar;
    struct buf before;
    struct buf after;
};

static void change_begin(struct change *change)
{
    make_plain_tree("tree");
    shell("cd tree && mkdir v && for i in 1 2 3 4 5 6 7 8 9; do"
          " head -c 20000 /dev/urandom > v/$i; touch -d @1000000000 v/$i; done");
    world_init(&change->world, "tree");
    change->layout = layout_of(&change->world);
    change->vtar = vtar_of(&change->world, change->layout);
    read_all(change->vtar, change->layout, 131072, &change->before);
    vtar_free(change->vtar);
    change->vtar = vtar_of(&change->world, change->layout);
}

/* Reads it again: the same, and well-formed. */
static void change_read(struct change *change, uint64_t members)
{
    read_all(change->vtar, change->layout, 10000, &change->after);
    struct buf again cleanup_buf;
    read_all(change->vtar, change->layout, 131072, &again);
    assert_same(&again, &change->after);
    must_check_out(&change->after, members);
}

static void change_end(struct change *change)
{
    vtar_free(change->vtar);
    layout_free(change->layout);
    world_done(&change->world);
    buf_done(&change->before);
    buf_done(&change->after);
}

/* All but these slots is as it was before. */
static void assert_others_unchanged(const struct change *change, const char *const *paths)
{
    for (; *paths; paths++) {
        struct layout_slot slot = slot_of(change->layout, *paths);
        memcpy(change->before.data + slot.offset, change->after.data + slot.offset,
               slot.slot_bytes);
    }
    assert_same(&change->after, &change->before);
}

/* From a place in the file on there are zeros; before, and its headers, what was there. */
static void assert_cut(const struct change *change, const char *path, uint64_t bytes)
{
    struct layout_slot slot = slot_of(change->layout, path);
    const char *got = change->after.data + slot.offset;
    assert_memory_equal(got, change->before.data + slot.offset, slot.header_bytes + bytes);
    for (uint64_t i = slot.header_bytes + bytes; i < slot.slot_bytes; i++)
        assert_int_equal(got[i], 0);
}

static void assert_told(struct change *change, const char *wanted, uint64_t count)
{
    assert_string_equal(buf_string(&change->world.told), wanted);
    assert_int_equal(vtar_affected(change->vtar), count);
}

static void test_growing(unused_arg void **state)
{
    struct change change;
    change_begin(&change);
    shell("echo more >> tree/v/3 && echo more >> tree/dir/file-512");
    change_read(&change, layout_count(change.layout));
    assert_same(&change.after, &change.before);
    assert_told(&change, "", 0);
    change_end(&change);
}

static void test_shrinking(unused_arg void **state)
{
    struct change change;
    change_begin(&change);
    shell("truncate -s 12345 tree/v/3 && truncate -s 0 tree/v/4");
    change_read(&change, layout_count(change.layout));
    assert_cut(&change, "v/3", 12345);
    assert_cut(&change, "v/4", 0);
    assert_others_unchanged(&change, (const char *const[]){"v/3", "v/4", NULL});
    assert_told(&change, "v/3 is shorter\nv/4 is shorter\n", 2);
    change_end(&change);
}

/* Every way to be gone.  After the root, each leaves the root once more. */
static void test_gone_before(unused_arg void **state)
{
    struct change change;
    change_begin(&change);
    shell("cd tree/v && rm 1 && rm 2 && mkdir 2 && rm 3 && ln -s 4 3 && mv 5 6 &&"
          " rm 7 && mkfifo 7 && cp 8 8.new && mv 8.new 8 && rm ../after");
    change_read(&change, layout_count(change.layout));
    assert_others_unchanged(&change, (const char *const[]){"v/1", "v/2", "v/3", "v/5", "v/6", "v/7",
                                                           "v/8", "after", NULL});
    assert_told(&change,
                "after is gone\nv/1 is gone\nv/2 is gone\nv/3 is gone\nv/5 is gone\n"
                "v/6 is gone\nv/7 is gone\nv/8 is gone\n",
                8);
    struct buf listing cleanup_buf;
    buf_init(&listing, LISTING_MAX);
    assert_int_equal(list_bytes(change.after.data, change.after.len, &listing, NULL), 0);
    assert_null(strstr(buf_string(&listing), "762f31 ")); /* v/1 */
    assert_non_null(strstr(buf_string(&listing), "762f39 "));
    change_end(&change);
}

static void test_directory_in_the_way_changes(unused_arg void **state)
{
    struct change change;
    change_begin(&change);
    shell("mv tree/v tree/w && ln -s w tree/v && rm -r tree/dir/below && touch tree/dir/below");
    change_read(&change, 0);
    assert_int_equal(vtar_affected(change.vtar), 10);
    change_end(&change);
}

static void test_gone_after_its_headers(unused_arg void **state)
{
    struct change change;
    char byte;
    change_begin(&change);
    must_read(change.vtar, &byte, 1, slot_of(change.layout, "v/2").offset + 5);
    size_t touched = 0;
    for (size_t i = 0; touched < VTAR_MAX_OPEN; i++) { /* so that it is not open any more */
        struct layout_slot other;
        layout_slot(change.layout, i, &other);
        if (other.has_data && other.ino != slot_of(change.layout, "v/2").ino) {
            must_read(change.vtar, &byte, 1, other.offset);
            touched++;
        }
    }
    shell("rm tree/v/2");
    change_read(&change, layout_count(change.layout));
    assert_cut(&change, "v/2", 0);
    assert_others_unchanged(&change, (const char *const[]){"v/2", NULL});
    assert_told(&change, "v/2 is gone\n", 1);
    change_end(&change);
}

static void test_lost_between_reads(unused_arg void **state)
{
    struct change change;
    char bytes[20000];
    change_begin(&change);
    struct layout_slot slot = slot_of(change.layout, "v/2");
    must_read(change.vtar, bytes, 512, slot.offset);
    must_read(change.vtar, bytes, 20000, slot.offset + slot.header_bytes); /* and is closed */
    assert_int_equal(change.world.open_now, 0);
    shell("rm tree/v/2");
    change_read(&change, layout_count(change.layout));
    assert_cut(&change, "v/2", 0);
    assert_others_unchanged(&change, (const char *const[]){"v/2", NULL});
    assert_told(&change, "v/2 is gone\n", 1);
    change_end(&change);
}

/* Told once, though two things happened to it. */
static void test_shorter_and_then_lost(unused_arg void **state)
{
    struct change change;
    char bytes[20000];
    change_begin(&change);
    struct layout_slot slot = slot_of(change.layout, "v/2");
    shell("truncate -s 100 tree/v/2");
    must_read(change.vtar, bytes, 20000, slot.offset + slot.header_bytes);
    shell("rm tree/v/2");
    change_read(&change, layout_count(change.layout));
    assert_cut(&change, "v/2", 0);
    assert_told(&change, "v/2 is shorter\n", 1);
    change_end(&change);
}

/* An open file stays what it was, whatever happens to its name; until it is read to its end. */
static void test_gone_while_open(unused_arg void **state)
{
    struct change change;
    char byte;
    change_begin(&change);
    struct layout_slot slot = slot_of(change.layout, "v/2");
    must_read(change.vtar, &byte, 1, slot.offset);
    shell("rm tree/v/2");
    read_all(change.vtar, change.layout, 4096, &change.after);
    assert_same(&change.after, &change.before);
    assert_told(&change, "", 0);
    change_end(&change);
}

/* Also where the link is asked for first. */
static void test_links_to_what_is_gone(unused_arg void **state)
{
    for (int round = 0; round < 2; round++) {
        struct change change;
        char byte;
        change_begin(&change);
        shell("rm tree/dir/file-14000");
        struct layout_slot slot = slot_of(change.layout, "hard");
        assert_int_not_equal(slot.link_to, slot.index);
        if (round == 1)
            must_read(change.vtar, &byte, 1, slot.offset);
        change_read(&change, layout_count(change.layout));
        assert_others_unchanged(&change, (const char *const[]){"dir/file-14000", "hard", NULL});
        assert_told(&change, "dir/file-14000 is gone\nhard is a link to a file that is gone\n", 2);
        change_end(&change);
    }
}

/* Files of whole seconds have the smallest slots; there are too many for readers
 * that count what is not a member. */
static void test_thousands_gone(unused_arg void **state)
{
    struct world world;
    shell("rm -rf tree && mkdir -p tree/many && cd tree/many &&"
          " for i in $(seq 3000); do echo x > $i; done; ln 1 0; touch -d @1000000000 *;"
          " cd .. && head -c 3000000 /dev/zero > big && echo last > z");
    world_init(&world, "tree");
    struct layout *layout = layout_of(&world);
    struct vtar *vtar = vtar_of(&world, layout);
    shell("rm -r tree/many/* tree/big tree/z && touch -d @1234567890.5 tree");
    struct buf whole cleanup_buf;
    read_all(vtar, layout, 131072, &whole);
    assert_int_equal(vtar_affected(vtar), 3003);
    must_check_out(&whole, 0);
    spill("gone.tar", whole.data, whole.len);
    const char *programs[] = {"tar -xf", "bsdtar -xf", "busybox tar -xf", "python3 -m tarfile -e"};
    for (size_t i = 0; i < 4; i++) {
        shell("rm -rf x && mkdir x && cd x && %s ../gone.tar 2>&1", programs[i]);
        shell("test \"$(cd x && find)\" = \"$(printf '.\\n./many')\"");
    }
    vtar_free(vtar);
    layout_free(layout);
    world_done(&world);
}

static void *read_own_quarter(void *data)
{
    struct reader *reader = data;
    size_t quarter = reader->got->len / 4 + 1;
    size_t at = quarter * reader->seed;
    size_t end = at + quarter < reader->got->len ? at + quarter : reader->got->len;
    for (; at < end && !reader->failed; at += 3000) {
        size_t len = end - at < 3000 ? end - at : 3000;
        if (vtar_read(reader->vtar, reader->got->data + at, len, at, NULL, NULL) != (ssize_t)len)
            reader->failed = "a read failed";
    }
    return NULL;
}

/* Threads share slots; what one has given out binds the others. */
static void test_vanishing_while_threads_read(unused_arg void **state)
{
    struct world world;
    shell("rm -rf tree && mkdir tree && cd tree &&"
          " for i in $(seq 200); do head -c 9000 /dev/zero | tr '\\0' x > $i; done");
    world_init(&world, "tree");
    struct layout *layout = layout_of(&world);
    struct vtar *vtar = vtar_of(&world, layout);
    struct buf got cleanup_buf;
    struct reader readers[4];
    pthread_t threads[4];
    buf_init(&got, BYTES_MAX);
    assert_int_equal(buf_add_zeros(&got, layout_bytes(layout)), 0);
    for (unsigned i = 0; i < 4; i++) {
        readers[i] = (struct reader){.vtar = vtar, .got = &got, .seed = i};
        assert_int_equal(pthread_create(&threads[i], NULL, read_own_quarter, &readers[i]), 0);
    }
    for (unsigned i = 200; i > 0; i--) {
        char name[16];
        (void)snprintf(name, sizeof(name), "%u", i);
        assert_int_equal(unlinkat(world.root, name, 0), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_null(readers[i].failed);
    }
    must_check_out(&got, 0);
    vtar_free(vtar);
    layout_free(layout);
    world_done(&world);
}

/* ---- errors -----------------------------------------------------------------------------------
 */

static void test_errors_are_told_and_pass(unused_arg void **state)
{
    struct change change;
    struct fail why = FAIL_INIT;
    static char bytes[1 << 20];
    change_begin(&change);
    struct layout_slot slot = slot_of(change.layout, "v/2");
    change.world.fails_path = "v/2";
    assert_int_equal(vtar_read(change.vtar, bytes, 512, slot.offset, NULL, &why), -EIO);
    assert_string_equal(why.text, "v/2: the disk is broken");
    assert_int_equal(vtar_read(change.vtar, bytes, 4096, slot.offset - 2048, NULL, NULL), -EIO);
    assert_int_equal(vtar_read(change.vtar, bytes, 2048, slot.offset - 2048, NULL, &why), 2048);
    change.world.fails_path = NULL;
    change.world.fails_pread = true;
    assert_int_equal(vtar_read(change.vtar, bytes, 4096, slot.offset, NULL, &why), -EIO);
    assert_string_equal(why.text, "the disk broke");
    assert_int_equal(vtar_read(change.vtar, bytes, 512, slot.offset, NULL, &why), 512);
    change.world.fails_pread = false;
    change_read(&change, layout_count(change.layout));
    assert_same(&change.after, &change.before);
    assert_told(&change, "", 0);
    change_end(&change);
}

/* ---- how the files are used ---------------------------------------------------------------------
 */

static void test_one_open_for_each_file(unused_arg void **state)
{
    struct world world;
    shell("rm -rf tree && mkdir tree && cd tree && head -c 4000000 /dev/zero > a &&"
          " for i in $(seq 500); do head -c 9000 /dev/zero > b$i; done");
    world_init(&world, "tree");
    struct layout *layout = layout_of(&world);
    struct vtar *vtar = vtar_of(&world, layout);
    struct buf whole cleanup_buf;
    read_all(vtar, layout, 131072, &whole);
    assert_int_equal(world.opens, 501);
    assert_int_equal(world.open_now, 0); /* each was closed at its end */
    buf_done(&whole);
    size_t preads = world.preads;
    read_all(vtar, layout, SIZE_MAX, &whole);
    assert_int_equal(world.preads - preads, 501);
    vtar_free(vtar);
    assert_int_equal(world.opens, world.closes);
    layout_free(layout);
    world_done(&world);
}

/* Those left in the middle stay open, but not too many. */
static void test_open_files_are_kept(unused_arg void **state)
{
    struct world world;
    char byte;
    shell("rm -rf tree && mkdir tree && cd tree &&"
          " for i in $(seq 40); do head -c 9000 /dev/zero > $i; done");
    world_init(&world, "tree");
    struct layout *layout = layout_of(&world);
    struct vtar *vtar = vtar_of(&world, layout);
    struct layout_slot slot;
    for (size_t i = 1; i <= 40; i++) {
        layout_slot(layout, i, &slot);
        must_read(vtar, &byte, 1, slot.offset + slot.header_bytes);
        layout_slot(layout, 1, &slot); /* is used all the time, and so stays open */
        must_read(vtar, &byte, 1, slot.offset + slot.header_bytes);
    }
    assert_int_equal(world.opens, 40);
    assert_int_equal(world.open_now, VTAR_MAX_OPEN);
    vtar_free(vtar);
    layout_free(layout);
    world_done(&world);
}

/* A tree of 500 files whose names have three digits, and who is told of them. */
static void announcing_begin(struct world *world, struct layout **ret_layout,
                             struct vtar **ret_vtar)
{
    shell("rm -rf tree && mkdir tree && cd tree && touch 000 &&"
          " for i in $(seq 101 600); do head -c 9000 /dev/zero > $i; done");
    world_init(world, "tree");
    world->expected_room = SIZE_MAX;
    *ret_layout = layout_of(world);
    struct vtar_source source = {.open = world_open,
                                 .pread = world_pread,
                                 .close = world_close,
                                 .affected = world_affected,
                                 .expect = world_expect,
                                 .data = world};
    *ret_vtar = vtar_new(*ret_layout, &source);
    assert_non_null(*ret_vtar);
}

static void announcing_end(struct world *world, struct layout *layout, struct vtar *vtar)
{
    vtar_free(vtar);
    layout_free(layout);
    world_done(world);
}

static void assert_announced(struct world *world, int from, int to)
{
    struct buf wanted cleanup_buf;
    buf_init(&wanted, LISTING_MAX);
    for (int i = from; i <= to; i++)
        assert_int_equal(buf_printf(&wanted, "%d\n", i), 0);
    assert_string_equal(buf_string(&world->expected), buf_string(&wanted));
}

/* Each once, in order, to one who reads in order; and well before they are read. */
static void test_files_are_announced(unused_arg void **state)
{
    struct world world;
    struct layout *layout;
    struct vtar *vtar;
    static char bytes[65536];
    announcing_begin(&world, &layout, &vtar);
    uint64_t at = 0;
    for (; at < layout_bytes(layout) / 4; at += sizeof(bytes))
        must_read(vtar, bytes, sizeof(bytes), at);
    assert_true(world.expected.len > 200 * 4 && world.expected.len < 300 * 4);
    for (; at < layout_bytes(layout); at += sizeof(bytes))
        assert_true(vtar_read(vtar, bytes, sizeof(bytes), at, NULL, NULL) > 0);
    assert_announced(&world, 101, 600);
    announcing_end(&world, layout, vtar);
}

/* Those for which there was no room are told later; those that are past, never. */
static void test_announcing_waits_for_room(unused_arg void **state)
{
    struct world world;
    struct layout *layout;
    struct vtar *vtar;
    static char bytes[20 * 10240];
    announcing_begin(&world, &layout, &vtar);
    world.expected_room = 30;
    must_read(vtar, bytes, sizeof(bytes), 0);
    assert_announced(&world, 101, 130);
    must_read(vtar, bytes, 10240, sizeof(bytes));
    assert_announced(&world, 101, 130);
    world.expected_room = 5;
    must_read(vtar, bytes, 10240, sizeof(bytes) + 10240);
    assert_announced(&world, 101, 135);
    struct layout_slot slot = slot_of(layout, "300");
    must_read(vtar, bytes, sizeof(bytes), slot.offset); /* within what may be one reader's order */
    world.expected_room = 1;
    buf_clear(&world.expected);
    must_read(vtar, bytes, 1, slot.offset + sizeof(bytes));
    assert_true(atoi(buf_string(&world.expected)) > 319);
    announcing_end(&world, layout, vtar);
}

/* Whoever jumps about is not announced anything. */
static void test_no_announcing_for_jumps(unused_arg void **state)
{
    struct world world;
    struct layout *layout;
    struct vtar *vtar;
    static char bytes[65536];
    announcing_begin(&world, &layout, &vtar);
    assert_true(layout_bytes(layout) > (uint64_t)4900 * 1024);
    for (int round = 0; round < 4; round++) {
        uint64_t end = layout_bytes(layout);
        must_read(vtar, bytes, sizeof(bytes), end - sizeof(bytes) - (uint64_t)round * 100000);
        assert_string_equal(buf_string(&world.expected), "");
        must_read(vtar, bytes, 10, (uint64_t)round * 100000);
        assert_string_equal(buf_string(&world.expected), "");
    }
    announcing_end(&world, layout, vtar);
}

/* ---- a file larger than any we could write here
 * ----------------------------------------------------- */

#define HUGE_BYTES ((uint64_t)9 << 30)

static unsigned char huge_byte(uint64_t offset)
{
    return (unsigned char)(offset * 31 + (offset >> 12) * 7 + (offset >> 32));
}

static int huge_open(unused_arg void *data, unused_arg const char *path, unused_arg uint64_t dev,
                     unused_arg uint64_t ino, unused_arg struct cancel *cancel, void **ret_file,
                     unused_arg struct fail *why)
{
    *ret_file = NULL; /* as good a handle as any */
    return 0;
}

static ssize_t huge_pread(unused_arg void *data, unused_arg void *file, void *buf, size_t len,
                          uint64_t offset, unused_arg struct cancel *cancel,
                          unused_arg struct fail *why)
{
    unsigned char *bytes = buf;
    size_t n = 0;
    for (; n < len && offset + n < HUGE_BYTES; n++)
        bytes[n] = huge_byte(offset + n);
    return (ssize_t)n;
}

static void huge_close(unused_arg void *data, unused_arg void *file)
{
}

static void huge_affected(unused_arg void *data, const char *path, const char *what)
{
    fail_msg("%s %s", path, what);
}

static struct layout *huge_layout(void)
{
    struct layout *layout = layout_new();
    struct tar_entry root = {.name = STR(""), .mode = S_IFDIR | 0755};
    struct tar_entry huge = {.name = STR("huge"), .mode = S_IFREG, .size_bytes = HUGE_BYTES};
    struct tar_entry next = {.name = STR("next"), .mode = S_IFREG, .size_bytes = 10};
    struct layout_identity identity = {.ino = 1, .nlink = 1};
    assert_int_equal(layout_add(layout, &root, &identity), 0);
    assert_int_equal(layout_add(layout, &huge, &identity), 0);
    assert_int_equal(layout_add(layout, &next, &identity), 0);
    layout_finish(layout);
    return layout;
}

static void test_offsets_beyond_4_gib(unused_arg void **state)
{
    struct vtar_source source = {
        .open = huge_open, .pread = huge_pread, .close = huge_close, .affected = huge_affected};
    struct layout *layout cleanup_layout = huge_layout();
    struct vtar *vtar cleanup_vtar = vtar_new(layout, &source);
    struct layout_slot slot;
    unsigned char bytes[3000];
    layout_slot(layout, 1, &slot);
    for (uint64_t at = 0; at + sizeof(bytes) <= HUGE_BYTES; at += 123456789) {
        must_read(vtar, bytes, sizeof(bytes), slot.offset + slot.header_bytes + at);
        for (size_t i = 0; i < sizeof(bytes); i++)
            assert_int_equal(bytes[i], huge_byte(at + i));
    }
    layout_slot(layout, 2, &slot); /* across the border to the next one */
    must_read(vtar, bytes, 1524, slot.offset - 500);
    assert_int_equal(bytes[499], huge_byte(HUGE_BYTES - 1));
    assert_string_equal((char *)bytes + 500, "./next");
    assert_int_equal(bytes[500 + 512 + 9], huge_byte(9));
    assert_int_equal(bytes[500 + 512 + 10], 0);
    assert_int_equal(vtar_read(vtar, bytes, 3000, layout_bytes(layout) - 1025, NULL, NULL), 1025);
}

static void test_an_archive_of_nothing(unused_arg void **state)
{
    struct vtar_source source = {
        .open = huge_open, .pread = huge_pread, .close = huge_close, .affected = huge_affected};
    struct layout *layout cleanup_layout = layout_new();
    layout_finish(layout);
    struct vtar *vtar cleanup_vtar = vtar_new(layout, &source);
    char bytes[2000];
    assert_int_equal(vtar_read(vtar, bytes, sizeof(bytes), 0, NULL, NULL), TAR_END_BYTES);
    assert_int_equal(vtar_read(vtar, bytes, sizeof(bytes), 1000, NULL, NULL), 24);
    assert_int_equal(vtar_read(vtar, bytes, 0, 0, NULL, NULL), 0);
    vtar_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces_of_any_size),
        cmocka_unit_test(test_bytes_around_boundaries),
        cmocka_unit_test(test_threads_read_the_same),
        cmocka_unit_test(test_programs_unpack_it),
        cmocka_unit_test(test_our_reader_takes_it),
        cmocka_unit_test(test_growing),
        cmocka_unit_test(test_shrinking),
        cmocka_unit_test(test_gone_before),
        cmocka_unit_test(test_directory_in_the_way_changes),
        cmocka_unit_test(test_gone_after_its_headers),
        cmocka_unit_test(test_lost_between_reads),
        cmocka_unit_test(test_shorter_and_then_lost),
        cmocka_unit_test(test_gone_while_open),
        cmocka_unit_test(test_links_to_what_is_gone),
        cmocka_unit_test(test_thousands_gone),
        cmocka_unit_test(test_vanishing_while_threads_read),
        cmocka_unit_test(test_errors_are_told_and_pass),
        cmocka_unit_test(test_one_open_for_each_file),
        cmocka_unit_test(test_open_files_are_kept),
        cmocka_unit_test(test_files_are_announced),
        cmocka_unit_test(test_announcing_waits_for_room),
        cmocka_unit_test(test_no_announcing_for_jumps),
        cmocka_unit_test(test_offsets_beyond_4_gib),
        cmocka_unit_test(test_an_archive_of_nothing),
    };
    return cmocka_run_group_tests(tests, enter_tar_test_dir, leave_test_dir);
}
