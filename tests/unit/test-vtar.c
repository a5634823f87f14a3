/* SPDX-License-Identifier: MIT */
#include "check.h"

#include "test-vtar.h"

static void write_sparse(const char *path, off_t size, const off_t *offsets, size_t count)
{
    int fd cleanup_close = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(pwrite(fd, "some data", 9, offsets[i]), 9);
    assert_int_equal(ftruncate(fd, size), 0);
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
        cmocka_unit_test(test_offsets_beyond_4_gib),
        cmocka_unit_test(test_an_archive_of_nothing),
    };
    return cmocka_run_group_tests(tests, enter_tar_test_dir, leave_test_dir);
}
