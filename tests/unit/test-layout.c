/* SPDX-License-Identifier: MIT */
#include "check.h"

#include "test-tar.h"

#include "tar/layout.h"
#include "tar/scan.h"

#include <malloc.h>

#define GIB ((uint64_t)1 << 30)

/* One file of its own, as most are. */
static struct layout_identity own_identity(void)
{
    static uint64_t ino = 1000;
    return (struct layout_identity){.dev = 7, .ino = ++ino, .nlink = 1, .ctime_s = 1};
}

static int add(struct layout *layout, const struct tar_entry *entry)
{
    struct layout_identity identity = own_identity();
    return layout_add(layout, entry, &identity);
}

static int add_name(struct layout *layout, const char *name, mode_t mode, uint64_t size)
{
    struct tar_entry entry = {
        .name = (char *)(uintptr_t)name, .mode = mode, .size_bytes = size, .mtime_s = 1000};
    return add(layout, &entry);
}

static struct layout *layout_with_root(void)
{
    struct layout *layout = layout_new();
    assert_non_null(layout);
    assert_int_equal(add_name(layout, "", S_IFDIR | 0755, 0), 0);
    return layout;
}

/* What stands in a file at an offset: anything that tells places apart. */
static char content(size_t index, uint64_t offset)
{
    return (char)(index * 31 + offset * 7 + (offset >> 9) * 13 + 1);
}

static void add_piece(const struct layout *layout, const struct layout_slot *slot, uint64_t *at,
                      uint64_t end, struct buf *out)
{
    struct layout_piece piece;
    size_t before = out->len;
    assert_int_equal(layout_data(layout, slot->index, *at, &piece, out), 0);
    assert_true(piece.bytes > 0 && piece.bytes <= slot->data_bytes - *at);
    if (piece.is_map)
        assert_int_equal(out->len - before, piece.bytes);
    for (uint64_t i = 0; !piece.is_map && i < piece.bytes && *at + i < end; i++) {
        char byte = content(slot->index, piece.file_offset + i);
        assert_true(piece.file_offset + i < slot->size_bytes);
        assert_int_equal(buf_add(out, &byte, 1), 0);
    }
    *at += piece.bytes;
}

static void add_slot(const struct layout *layout, size_t index, struct buf *out)
{
    struct layout_slot slot;
    layout_slot(layout, index, &slot);
    assert_int_equal(slot.index, index);
    assert_int_equal(slot.offset, out->len);
    assert_int_equal(layout_header(layout, index, out), 0);
    assert_int_equal(out->len - slot.offset, slot.header_bytes);
    for (uint64_t at = 0; at < slot.data_bytes;)
        add_piece(layout, &slot, &at, slot.data_bytes, out);
    assert_int_equal(out->len - slot.offset, slot.header_bytes + slot.data_bytes);
    assert_int_equal(buf_add_zeros(out, tar_padding_bytes(slot.data_bytes)), 0);
    assert_int_equal(out->len - slot.offset, slot.slot_bytes);
}

/* The whole archive, with made-up contents. */
static void write_archive(const struct layout *layout, struct buf *out)
{
    buf_init(out, BYTES_MAX);
    for (size_t i = 0; i < layout_count(layout); i++)
        add_slot(layout, i, out);
    assert_int_equal(buf_add_zeros(out, TAR_END_BYTES), 0);
    assert_int_equal(out->len, layout_bytes(layout));
}

/* The made-up contents of a whole file, zeros in its holes. */
static uint64_t content_crc(size_t index, const struct tar_entry *entry)
{
    uint64_t crc = 0;
    for (uint64_t at = 0; at < entry->size_bytes; at++) {
        bool is_data = !entry->extents;
        for (size_t i = 0; i < entry->extent_count && !is_data; i++)
            is_data = at >= entry->extents[i].offset / 512 * 512 &&
                      at < (entry->extents[i].offset + entry->extents[i].bytes + 511) / 512 * 512;
        unsigned char byte = is_data ? (unsigned char)content(index, at) : 0;
        crc = crc32(crc, &byte, 1);
    }
    return crc;
}

static void assert_listing(const struct buf *archive, const char *wanted)
{
    struct buf listing cleanup_buf;
    buf_init(&listing, LISTING_MAX);
    struct fail why = FAIL_INIT;
    if (list_bytes(archive->data, archive->len, &listing, &why) < 0)
        fail_msg("%s", why.text);
    assert_string_equal(buf_string(&listing), wanted);
}

static int count_member(void *data, const struct tar_entry *entry, unused_arg struct fail *why)
{
    (*(size_t *)data)++;
    return entry->name ? 0 : -EINVAL;
}

/* tar/scan.h is strict about the form. */
static void assert_scans(const struct buf *archive, size_t members)
{
    size_t count = 0;
    struct tar_scan *scan cleanup_tar_scan = tar_scan_new(count_member, &count);
    struct fail why = FAIL_INIT;
    if (tar_scan_push(scan, archive->data, archive->len, &why) < 0 ||
        tar_scan_finish(scan, &why) < 0)
        fail_msg("%s", why.text);
    assert_int_equal(count, members);
}

/* ---- everything an entry can be ------------------------------------------------------ */

static char name_300[301];
static char deep[20][4200]; /* directories in each other */
static char deep_file[4600];
static char target_short[] = "../out/of here";
static char target_3000[3001];
static struct tar_extent middle[] = {{8192, 4096}, {65536, 1000}};
static struct tar_extent unaligned[] = {{100, 50}, {700, 30}, {5000, 9}, {9990, 10}};
static struct tar_extent whole[] = {{0, 600}, {600, 400}};
static struct tar_extent none[1];

static void fill(char *out, size_t len, const char *pattern)
{
    for (size_t i = 0; i < len; i++)
        out[i] = pattern[i % strlen(pattern)];
    out[len] = '\0';
}

#define MAX_CASES 100
static struct tar_entry cases[MAX_CASES];
static size_t case_count;

static struct tar_entry *add_case(const char *name, mode_t mode)
{
    struct tar_entry *entry = &cases[case_count++];
    assert_true(case_count < MAX_CASES);
    *entry = (struct tar_entry){
        .name = (char *)(uintptr_t)name, .mode = mode, .mtime_s = 1700000000, .mtime_ns = 120};
    return entry;
}

static void add_file_case(const char *name, uint64_t size, struct tar_extent *extents, size_t count)
{
    struct tar_entry *entry = add_case(name, S_IFREG | 0640);
    entry->size_bytes = size;
    entry->extents = extents;
    entry->extent_count = count;
}

static void add_sparse_cases(void)
{
    add_file_case("sparse-all-hole", 1000000, none, 0);
    add_file_case("sparse-block", 512, none, 0);
    add_file_case("sparse-middle", 200000, middle, 2);
    add_file_case("sparse-to-end", 66536, middle, 2);
    add_file_case("sparse-unaligned", 10000, unaligned, 4);
    add_file_case("sparse-\xff", 10000, unaligned, 4);
    add_file_case("sparse-not", 1000, whole, 2);
    add_file_case("sparse-empty", 0, none, 0);
    add_file_case(name_300, 70000, middle, 2);
}

static void add_tree_cases(void)
{
    add_case("", S_IFDIR | 01777)->mtime_ns = 7;
    add_case("dir", S_IFDIR | 02755)->uid = 2097152;
    add_case("dir/below", S_IFDIR | 0700)->mtime_ns = 0;
    add_file_case("dir/below/file", 513, NULL, 0);
    add_file_case("dir/file", 512, NULL, 0);
    add_case("empty", S_IFDIR | 0755)->mtime_s = -3;
    for (size_t i = 0; i < 20; i++) {
        int len = snprintf(deep[i], sizeof(deep[i]), "%s%s%.200s", i ? deep[i - 1] : "",
                           i ? "/" : "", name_300);
        assert_true(len > 0 && (size_t)len < sizeof(deep[i]));
        (void)add_case(deep[i], S_IFDIR | 0755);
    }
    (void)snprintf(deep_file, sizeof(deep_file), "%s/f", deep[19]);
    add_file_case(deep_file, 1, NULL, 0);
}

static void add_other_cases(void)
{
    struct tar_entry *entry = add_case("char", S_IFCHR | 0644);
    entry->dev_major = 4095;
    entry->dev_minor = 1048575;
    add_case("block", S_IFBLK | 0600)->dev_minor = 9;
    (void)add_case("fifo", S_IFIFO | 0622);
    add_case("link", S_IFLNK | 0777)->link_target = target_short;
    add_case("link-long", S_IFLNK | 0777)->link_target = target_3000;
    entry = add_case("setuid", S_IFREG | 06755);
    entry->uid = 4294967294;
    entry->gid = 4294967295;
    entry->mtime_s = INT64_MIN + 1;
    entry = add_case("old", S_IFREG | 0);
    entry->mtime_s = -2;
    entry->mtime_ns = 999999999;
    entry = add_case("plain", S_IFREG | 0644);
    entry->mtime_ns = 0;
    (void)add_case("new\nline = \xc3\xa9", S_IFREG | 0644);
    entry = add_case("xattr", S_IFREG | 0644);
    assert_int_equal(tar_entry_add_xattr(entry, "user.binary", "\0\n=\xff%", 5), 0);
    entry = add_case("xattr-dir", S_IFDIR | 0755);
    assert_int_equal(tar_entry_add_xattr(entry, "user.empty", "", 0), 0);
}

static int make_cases(void **state)
{
    fill(name_300, 300, "n\xc3\xa9");
    fill(target_3000, 3000, "../\xff");
    add_tree_cases();
    add_other_cases();
    add_sparse_cases();
    return enter_tar_test_dir(state);
}

static int drop_cases(void **state)
{
    for (size_t i = 0; i < case_count; i++) {
        for (size_t k = 0; k < cases[i].xattr_count; k++) {
            free(cases[i].xattrs[k].name);
            free(cases[i].xattrs[k].value);
        }
        free(cases[i].xattrs);
    }
    return leave_test_dir(state);
}

static struct layout *layout_of_cases(void)
{
    struct layout *layout = layout_new();
    assert_non_null(layout);
    for (size_t i = 0; i < case_count; i++) {
        struct layout_identity identity = {.dev = 7 + i % 3, .ino = 100 + i, .nlink = 1};
        assert_int_equal(layout_add(layout, &cases[i], &identity), 0);
    }
    layout_finish(layout);
    return layout;
}

static void test_reader_sees_every_entry(unused_arg void **state)
{
    struct layout *layout cleanup_layout = layout_of_cases();
    struct buf archive cleanup_buf;
    struct buf wanted cleanup_buf;
    buf_init(&wanted, LISTING_MAX);
    write_archive(layout, &archive);
    for (size_t i = 0; i < case_count; i++)
        add_line(&wanted, &cases[i], content_crc(i, &cases[i]));
    assert_listing(&archive, buf_string(&wanted));
    assert_scans(&archive, case_count);
}

static void test_same_entries_same_bytes(unused_arg void **state)
{
    struct layout *one cleanup_layout = layout_of_cases();
    struct layout *two cleanup_layout = layout_of_cases();
    struct buf a cleanup_buf;
    struct buf b cleanup_buf;
    write_archive(one, &a);
    write_archive(two, &b);
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.data, b.data, a.len);
}

static void test_slots_follow_each_other(unused_arg void **state)
{
    struct layout *layout cleanup_layout = layout_of_cases();
    uint64_t at = 0;
    struct layout_slot slot;
    for (size_t i = 0; i < case_count; i++) {
        layout_slot(layout, i, &slot);
        assert_int_equal(slot.offset, at);
        assert_int_equal(slot.slot_bytes % TAR_BLOCK_BYTES, 0);
        assert_int_equal(slot.dev, 7 + i % 3);
        assert_int_equal(slot.ino, 100 + i);
        assert_int_equal(slot.link_to, i);
        uint64_t probes[] = {at, at + 1, at + slot.slot_bytes / 2, at + slot.slot_bytes - 1};
        for (size_t k = 0; k < 4; k++) {
            struct layout_slot found;
            assert_int_equal(layout_find(layout, probes[k], &found), 1);
            assert_int_equal(found.index, i);
            assert_int_equal(found.slot_bytes, slot.slot_bytes);
        }
        struct buf path cleanup_buf;
        buf_init(&path, 10000);
        assert_int_equal(buf_add_string(&path, "kept"), 0);
        assert_int_equal(layout_path(layout, i, &path), 0);
        assert_string_equal(path.data + 4, cases[i].name);
        at += slot.slot_bytes;
    }
    assert_int_equal(at + TAR_END_BYTES, layout_bytes(layout));
    assert_int_equal(layout_find(layout, at, &slot), 0);
    assert_int_equal(layout_find(layout, UINT64_MAX, &slot), 0);
}

static void test_programs_list_it(unused_arg void **state)
{
    struct layout *layout cleanup_layout = layout_of_cases();
    struct buf archive cleanup_buf;
    write_archive(layout, &archive);
    spill("all.tar", archive.data, archive.len);
    shell("tar --warning=no-unknown-keyword --warning=no-timestamp --quoting-style=escape"
          " --full-time -tvf all.tar > gnu.txt 2>&1");
    shell("test $(wc -l < gnu.txt) = %zu", case_count);
    shell("grep -q ' 200000 .* ./sparse-middle$' gnu.txt");
    shell("bsdtar -tf all.tar > bsd.txt 2>&1; test $(wc -l < bsd.txt) = %zu", case_count);
    shell("busybox tar -tf all.tar > /dev/null");
    shell("python3 -c \"import tarfile\n"
          "sizes = {m.name: m.size for m in tarfile.open('all.tar')}\n"
          "assert len(sizes) == %zu and sizes['./sparse-middle'] == 200000, sizes\"",
          case_count);
}

/* ---- attributes and ACLs -------------------------------------------------------------- */

static const unsigned char acl[] = {
    2,    0, 0,    0, 0x01, 0,   7,   0,   255,  255, 255,  255, 0x02, 0,   5,    0,    0xe8, 3,
    0,    0, 0x04, 0, 4,    0,   255, 255, 255,  255, 0x08, 0,   6,    0,   0xff, 0xff, 0xff, 0x7f,
    0x10, 0, 7,    0, 255,  255, 255, 255, 0x20, 0,   0,    0,   255,  255, 255,  255};

static void header_of(const struct tar_entry *entry, struct buf *out)
{
    struct layout *layout cleanup_layout = layout_with_root();
    buf_init(out, LAYOUT_HEADER_MAX_BYTES);
    assert_int_equal(add(layout, entry), 0);
    layout_finish(layout);
    assert_int_equal(layout_header(layout, 1, out), 0);
}

static bool has_text(const struct buf *buf, const char *text)
{
    return memmem(buf->data, buf->len, text, strlen(text));
}

static void test_acls_as_text_too(unused_arg void **state)
{
    struct buf header cleanup_buf;
    struct tar_entry entry cleanup_tar_entry = {.name = strdup("d"), .mode = S_IFDIR | 0770};
    assert_int_equal(tar_entry_add_xattr(&entry, "system.posix_acl_access", acl, sizeof(acl)), 0);
    assert_int_equal(tar_entry_add_xattr(&entry, "system.posix_acl_default", acl, sizeof(acl)), 0);
    header_of(&entry, &header);
    assert_true(has_text(&header, "SCHILY.xattr.system.posix_acl_access="));
    assert_true(has_text(&header, " SCHILY.acl.access=user::rwx,user:1000:r-x,group::r--,"
                                  "group:2147483647:rw-,mask::rwx,other::---\n"));
    assert_true(has_text(&header, " SCHILY.acl.default=user::rwx,user:1000:r-x,"));
    struct buf plain cleanup_buf; /* and from the other writer, which imports use */
    buf_init(&plain, 10000);
    assert_int_equal(tar_header_write(&plain, "", &entry), 0);
    assert_true(has_text(&plain, " SCHILY.acl.access=user::rwx,"));
}

/* What is no ACL to us is an attribute like any other. */
static void test_unknown_acls(unused_arg void **state)
{
    unsigned char bad[sizeof(acl)];
    const struct {
        size_t at;
        unsigned char byte;
        size_t bytes;
    } damages[] = {{0, 3, sizeof(acl)}, {4, 0x40, sizeof(acl)},
                   {6, 8, sizeof(acl)}, {0, 2, 4},
                   {0, 2, 13},          {0, 2, 0}};
    for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
        struct buf header cleanup_buf;
        struct tar_entry entry cleanup_tar_entry = {.name = strdup("f"), .mode = S_IFREG};
        memcpy(bad, acl, sizeof(acl));
        bad[damages[i].at] = damages[i].byte;
        assert_int_equal(
            tar_entry_add_xattr(&entry, "system.posix_acl_access", bad, damages[i].bytes), 0);
        header_of(&entry, &header);
        assert_true(has_text(&header, "SCHILY.xattr.system.posix_acl_access="));
        assert_false(has_text(&header, "SCHILY.acl"));
    }
}

static void test_reader_understands_acls(unused_arg void **state)
{
    struct layout *layout cleanup_layout = layout_with_root();
    struct tar_entry entry cleanup_tar_entry = {.name = strdup("d"), .mode = S_IFDIR | 0770};
    assert_int_equal(tar_entry_add_xattr(&entry, "system.posix_acl_access", acl, sizeof(acl)), 0);
    assert_int_equal(add(layout, &entry), 0);
    layout_finish(layout);
    struct buf archive cleanup_buf;
    struct buf wanted cleanup_buf;
    buf_init(&wanted, LISTING_MAX);
    write_archive(layout, &archive);
    struct tar_entry root = {.name = STR(""), .mode = S_IFDIR | 0755, .mtime_s = 1000};
    add_line(&wanted, &root, 0);
    add_line(&wanted, &entry, 0);
    assert_listing(&archive, buf_string(&wanted));
}

/* ---- hard links --------------------------------------------------------------------- */

struct linked {
    const char *name;
    mode_t mode;
    uint64_t dev, ino;
    uint32_t nlink;
    const char *links_to;
};

static struct tar_entry entry_of_linked(const struct linked *linked)
{
    struct tar_entry entry = {.name = (char *)(uintptr_t)linked->name, .mode = linked->mode};
    if (S_ISREG(linked->mode))
        entry.size_bytes = 700;
    if (S_ISLNK(linked->mode))
        entry.link_target = target_short;
    return entry;
}

static void test_hard_links(unused_arg void **state)
{
    const struct linked files[] = {
        {"", S_IFDIR, 1, 1, 9, NULL},
        {"a", S_IFREG, 1, 5, 3, NULL},
        {"b", S_IFREG, 1, 5, 3, "a"},
        {"c", S_IFREG, 1, 6, 3, NULL},
        {"d", S_IFDIR, 1, 2, 2, NULL},
        {"d/a", S_IFREG, 2, 5, 3, NULL}, /* another file system */
        {"d/b", S_IFREG, 2, 5, 3, "d/a"},
        {"d/c", S_IFREG, 1, 5, 3, "a"},
        {"d/once", S_IFREG, 1, 7, 1, NULL},
        {"d/twice", S_IFREG, 1, 7, 1, NULL}, /* nlink says no */
        {"e", S_IFDIR, 1, 2, 2, NULL},       /* as a bind mount would show it */
        {"l", S_IFLNK, 1, 8, 2, NULL},
        {"m", S_IFLNK, 1, 8, 2, "l"},
        {name_300, S_IFREG, 1, 9, 2, NULL},
        {"o", S_IFREG, 1, 9, 2, name_300},
        {"p", S_IFIFO, 1, 10, 2, NULL},
        {"q", S_IFIFO, 1, 10, 2, "p"},
    };
    const size_t count = sizeof(files) / sizeof(files[0]);
    struct layout *layout cleanup_layout = layout_new();
    struct buf wanted cleanup_buf;
    struct buf archive cleanup_buf;
    buf_init(&wanted, LISTING_MAX);
    for (size_t i = 0; i < count; i++) {
        struct tar_entry entry = entry_of_linked(&files[i]);
        struct layout_identity identity = {files[i].dev, files[i].ino, files[i].nlink, 0, 0};
        struct tar_xattr xattr = {STR("user.x"), STR("y"), 1};
        entry.xattrs = files[i].links_to ? &xattr : NULL; /* a link has none */
        entry.xattr_count = files[i].links_to ? 1 : 0;
        assert_int_equal(layout_add(layout, &entry, &identity), 0);
        entry.xattr_count = 0;
        if (files[i].links_to) {
            entry.is_hard_link = 1;
            entry.link_target = (char *)(uintptr_t)files[i].links_to;
            entry.mode = S_IFREG;
            entry.size_bytes = 0;
        }
        add_line(&wanted, &entry, files[i].links_to ? 0 : content_crc(i, &entry));
    }
    layout_finish(layout);
    write_archive(layout, &archive);
    assert_listing(&archive, buf_string(&wanted));
    struct layout_slot slot;
    layout_slot(layout, 7, &slot);
    assert_int_equal(slot.link_to, 1);
    assert_int_equal(slot.data_bytes, 0);
    assert_false(slot.has_data);
}

/* ---- sparse files ---------------------------------------------------------------------- */

static void map_of(const struct tar_entry *entry, struct buf *map, struct layout_slot *ret_slot)
{
    struct layout *layout cleanup_layout = layout_with_root();
    struct layout_piece piece;
    buf_init(map, BYTES_MAX);
    assert_int_equal(add(layout, entry), 0);
    layout_finish(layout);
    layout_slot(layout, 1, ret_slot);
    assert_int_equal(layout_data(layout, 1, 0, &piece, map), 0);
    assert_int_equal(piece.is_map, entry->extents != NULL);
}

static void test_sparse_maps(unused_arg void **state)
{
    const struct {
        uint64_t size;
        struct tar_extent *extents;
        size_t count;
        const char *map;
        uint64_t data_bytes;
    } wanted[] = {
        {1000000, none, 0, "1\n1000000\n0\n", 512},
        {200000, middle, 2, "3\n8192\n4096\n65536\n1024\n200000\n0\n", 512 + 4096 + 1024},
        {66536, middle, 2, "2\n8192\n4096\n65536\n1000\n", 512 + 4096 + 1000},
        {10000, unaligned, 4, "3\n0\n1024\n4608\n512\n9728\n272\n", 512 + 1024 + 512 + 272},
    };
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        struct tar_entry entry = {.name = STR("f"),
                                  .mode = S_IFREG,
                                  .size_bytes = wanted[i].size,
                                  .extents = wanted[i].extents,
                                  .extent_count = wanted[i].count};
        struct buf map cleanup_buf;
        struct layout_slot slot;
        map_of(&entry, &map, &slot);
        assert_int_equal(map.len, 512);
        assert_string_equal(map.data, wanted[i].map);
        assert_int_equal(slot.data_bytes, wanted[i].data_bytes);
        assert_int_equal(slot.has_data, wanted[i].count > 0);
        assert_int_equal(slot.size_bytes, wanted[i].size);
    }
}

static void test_bad_extents(unused_arg void **state)
{
    struct tar_extent bad[][2] = {
        {{0, 10}, {5, 10}},     {{20, 1}, {10, 1}},     {{0, 1001}, {1001, 0}}, {{1001, 0}, {0, 0}},
        {{UINT64_MAX, 1}, {0}}, {{1, UINT64_MAX}, {0}}, {{500, 501}, {0, 0}},
    };
    struct layout *layout cleanup_layout = layout_with_root();
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct tar_entry entry = {.name = STR("f"),
                                  .mode = S_IFREG,
                                  .size_bytes = 1000,
                                  .extents = bad[i],
                                  .extent_count = 2};
        assert_int_equal(add(layout, &entry), -EINVAL);
    }
    layout_finish(layout);
    assert_int_equal(layout_count(layout), 1);
}

#define MANY_EXTENTS 30000

/* A map longer than a piece of it, asked for at any place. */
static void test_map_in_pieces(unused_arg void **state)
{
    struct tar_extent *extents = calloc(MANY_EXTENTS, sizeof(*extents));
    for (size_t i = 0; i < MANY_EXTENTS; i++)
        extents[i] = (struct tar_extent){i * 8192, 4096};
    struct tar_entry entry = {.name = STR("f"),
                              .mode = S_IFREG,
                              .size_bytes = MANY_EXTENTS * UINT64_C(8192),
                              .extents = extents,
                              .extent_count = MANY_EXTENTS};
    struct layout *layout cleanup_layout = layout_with_root();
    assert_int_equal(add(layout, &entry), 0);
    layout_finish(layout);
    struct buf map cleanup_buf;
    struct layout_piece piece;
    struct layout_slot slot;
    buf_init(&map, BYTES_MAX);
    layout_slot(layout, 1, &slot);
    for (;;) {
        size_t before = map.len;
        assert_int_equal(layout_data(layout, 1, map.len, &piece, &map), 0);
        if (!piece.is_map)
            break;
        assert_true(piece.bytes <= LAYOUT_MAP_PIECE_BYTES);
        assert_int_equal(map.len - before, piece.bytes);
    }
    assert_true(map.len > 2 * (uint64_t)LAYOUT_MAP_PIECE_BYTES);
    assert_int_equal(slot.data_bytes, map.len + MANY_EXTENTS * UINT64_C(4096));
    assert_int_equal(strtoul(map.data, NULL, 10), MANY_EXTENTS + 1);
    for (size_t at = 0; at < map.len; at += 991) {
        struct buf some cleanup_buf;
        buf_init(&some, BYTES_MAX);
        assert_int_equal(layout_data(layout, 1, at, &piece, &some), 0);
        assert_memory_equal(some.data, map.data + at, some.len);
        assert_int_equal(some.len, piece.bytes);
    }
    for (size_t i = 0; i < MANY_EXTENTS; i += 7) {
        assert_int_equal(layout_data(layout, 1, map.len + i * 4096 + 5, &piece, NULL), 0);
        assert_int_equal(piece.file_offset, i * 8192 + 5);
        assert_int_equal(piece.bytes, 4091);
    }
    free(extents);
}

/* The size in the header is not the file's: readers must not mix the two up. */
static void test_big_sparse_file(unused_arg void **state)
{
    struct tar_extent extents[] = {{0, 9 * GIB}, {20 * GIB, 4096}};
    struct tar_entry entry = {.name = STR("big"),
                              .mode = S_IFREG | 0644,
                              .size_bytes = 30 * GIB,
                              .extents = extents,
                              .extent_count = 2};
    struct layout *layout cleanup_layout = layout_with_root();
    assert_int_equal(add(layout, &entry), 0);
    assert_int_equal(add_name(layout, "next", S_IFREG | 0600, 0), 0);
    layout_finish(layout);
    int fd cleanup_close = open("big.tar", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    for (size_t i = 0; i < 3; i++) { /* the archive as a sparse file itself */
        struct layout_slot slot;
        struct layout_piece piece;
        struct buf bytes cleanup_buf;
        buf_init(&bytes, BYTES_MAX);
        layout_slot(layout, i, &slot);
        assert_int_equal(layout_header(layout, i, &bytes), 0);
        if (i == 1)
            assert_int_equal(layout_data(layout, i, 0, &piece, &bytes), 0);
        assert_int_equal(pwrite(fd, bytes.data, bytes.len, (off_t)slot.offset), bytes.len);
    }
    assert_int_equal(ftruncate(fd, (off_t)layout_bytes(layout)), 0);
    shell("tar -tvf big.tar | grep -q ' 32212254720 .* ./big$'");
    shell("test \"$(tar -tf big.tar | tail -1)\" = ./next");
    shell("bsdtar -tvf big.tar | grep -q ' 32212254720 .* ./big$'");
    shell("test \"$(bsdtar -tf big.tar | tail -1)\" = ./next");
    shell("python3 -c \"import tarfile\n"
          "sizes = [(m.name, m.size) for m in tarfile.open('big.tar')]\n"
          "assert sizes[1:] == [('./big', 30 << 30), ('./next', 0)], sizes\"");
    shell("rm big.tar");
}

/* ---- filler -------------------------------------------------------------------------- */

struct filler_check {
    const struct tar_entry *root;
    size_t members;
};

static int check_filler(void *data, const struct tar_entry *entry, unused_arg struct fail *why)
{
    struct filler_check *check = data;
    check->members++;
    assert_string_equal(entry->name, "");
    assert_int_equal(entry->mode, check->root->mode);
    assert_int_equal(entry->uid, check->root->uid);
    assert_int_equal(entry->gid, check->root->gid);
    assert_int_equal(entry->mtime_s, check->root->mtime_s);
    assert_true(entry->mtime_ns == check->root->mtime_ns || entry->mtime_ns == 0);
    return 0;
}

/* Of any size the root said once more, and nothing else. */
static void check_fillers(const struct tar_entry *root)
{
    struct layout *layout cleanup_layout = layout_new();
    assert_int_equal(add(layout, root), 0);
    layout_finish(layout);
    for (size_t bytes = 512; bytes <= 70000; bytes += bytes < 6000 ? 512 : 5120) {
        struct buf filler cleanup_buf;
        buf_init(&filler, BYTES_MAX);
        assert_int_equal(layout_filler(layout, bytes, &filler), 0);
        assert_int_equal(filler.len, bytes);
        struct filler_check check = {.root = root};
        struct tar_scan *scan cleanup_tar_scan = tar_scan_new(check_filler, &check);
        assert_int_equal(buf_add_zeros(&filler, TAR_END_BYTES), 0);
        struct fail why = FAIL_INIT;
        if (tar_scan_push(scan, filler.data, filler.len, &why) < 0)
            fail_msg("%zu: %s", bytes, why.text);
        assert_int_equal(tar_scan_finish(scan, &why), 0);
        assert_true(check.members >= 1);
        if (bytes >= 2048)
            assert_int_equal(check.members, 1);
    }
}

static void test_fillers(unused_arg void **state)
{
    struct tar_entry root cleanup_tar_entry = {.name = strdup(""), .mode = S_IFDIR | 01755};
    check_fillers(&root);
    root.mtime_s = 1700000000;
    check_fillers(&root);
    root.mtime_ns = 123456789;
    check_fillers(&root);
    root.uid = 4000000000;
    root.gid = 3000000;
    root.mtime_s = -5;
    assert_int_equal(tar_entry_add_xattr(&root, "user.x", "yyyyyyyyyyyyyyyyyyyyy", 20), 0);
    assert_int_equal(tar_entry_add_xattr(&root, "system.posix_acl_access", acl, sizeof(acl)), 0);
    check_fillers(&root);
}

static void test_programs_take_fillers(unused_arg void **state)
{
    struct layout *layout cleanup_layout = layout_with_root();
    assert_int_equal(add_name(layout, "first", S_IFREG | 0644, 0), 0);
    assert_int_equal(add_name(layout, "second", S_IFREG | 0644, 0), 0);
    layout_finish(layout);
    struct buf archive cleanup_buf;
    buf_init(&archive, BYTES_MAX);
    assert_int_equal(layout_header(layout, 0, &archive), 0);
    assert_int_equal(layout_header(layout, 1, &archive), 0);
    for (size_t i = 0; i < 1500; i++)
        assert_int_equal(layout_filler(layout, i % 3 ? 512 + i % 7 * 512 : 65536, &archive), 0);
    assert_int_equal(layout_header(layout, 2, &archive), 0);
    assert_int_equal(layout_filler(layout, 2048, &archive), 0);
    assert_int_equal(buf_add_zeros(&archive, TAR_END_BYTES), 0);
    spill("fill.tar", archive.data, archive.len);
    const char *programs[] = {"tar -xf", "bsdtar -xf", "busybox tar -xf", "python3 -m tarfile -e"};
    for (size_t i = 0; i < 4; i++) {
        shell("rm -rf x && mkdir x && cd x && %s ../fill.tar 2>&1", programs[i]);
        shell("test \"$(ls x)\" = \"$(printf 'first\\nsecond')\"");
        shell("test $(stat -c %%Y x) = 1000");
    }
}

/* ---- limits and refusals ------------------------------------------------------------------ */

static void test_places(unused_arg void **state)
{
    struct layout *layout cleanup_layout = layout_new();
    assert_int_equal(add_name(layout, "a", S_IFREG, 0), -EINVAL);
    assert_int_equal(add_name(layout, "", S_IFREG, 0), -EINVAL);
    assert_int_equal(add_name(layout, "", S_IFDIR, 0), 0);
    assert_int_equal(add_name(layout, "", S_IFDIR, 0), -EINVAL);
    assert_int_equal(add_name(layout, "d", S_IFDIR, 0), 0);
    assert_int_equal(add_name(layout, "d/e", S_IFDIR, 0), 0);
    assert_int_equal(add_name(layout, "d/e/f", S_IFREG, 0), 0);
    const char *wrong[] = {"d/e/f/g", "x/y", "d/x/y", "/", "/d",     "d/",    "d//e",   ".",
                           "..",      "d/.", "d/..",  "",  "d/e/f/", "e/e/e", "d/ee/f", "d/f/f"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_equal(add_name(layout, wrong[i], S_IFREG, 0), -EINVAL);
    assert_int_equal(add_name(layout, "d/e/h", S_IFREG, 0), 0);
    assert_int_equal(add_name(layout, "d/i", S_IFREG, 0), 0);
    assert_int_equal(add_name(layout, "d/e/j", S_IFREG, 0), -EINVAL); /* left already */
    assert_int_equal(add_name(layout, "d/k", S_IFDIR, 0), 0);
    assert_int_equal(add_name(layout, "d/k/...", S_IFREG, 0), 0);
    assert_int_equal(add_name(layout, "z", S_IFREG, 0), 0);
    assert_int_equal(add_name(layout, "d/z", S_IFREG, 0), -EINVAL);
    layout_finish(layout);
    assert_int_equal(layout_count(layout), 9);
}

static void test_sockets_are_left_out(unused_arg void **state)
{
    struct layout *layout cleanup_layout = layout_with_root();
    assert_int_equal(add_name(layout, "s", S_IFSOCK | 0777, 0), 0);
    assert_int_equal(add_name(layout, "t", S_IFREG, 0), 0);
    layout_finish(layout);
    assert_int_equal(layout_count(layout), 2);
}

static void test_nothing_is_an_archive_too(unused_arg void **state)
{
    struct layout *layout cleanup_layout = layout_new();
    struct layout_slot slot;
    layout_finish(layout);
    assert_int_equal(layout_bytes(layout), TAR_END_BYTES);
    assert_int_equal(layout_find(layout, 0, &slot), 0);
    layout_free(NULL);
}

static int add_refused(struct layout *layout, size_t which)
{
    static char long_name[LAYOUT_HEADER_MAX_BYTES];
    struct tar_xattr big = {STR("user.big"), long_name, sizeof(long_name)};
    struct tar_entry entry = {.name = STR("refused"), .mode = S_IFREG, .mtime_s = 1 << 30};
    struct layout_identity identity = {1, 99, 5, 1 << 30, 0};
    memset(long_name, 'x', sizeof(long_name) - 1);
    switch (which) {
    case 0:
        entry.uid = UINT64_C(1) << 32;
        break;
    case 1:
        entry.gid = UINT64_MAX;
        break;
    case 2:
        entry.size_bytes = (uint64_t)INT64_MAX + 1;
        break;
    case 3:
        entry.size_bytes = (uint64_t)INT64_MAX - 511; /* with what is around it */
        break;
    case 4:
        entry.name = long_name;
        break;
    case 5:
        entry.xattrs = &big;
        entry.xattr_count = 1;
        break;
    case 6:
        entry.mtime_ns = 1000000000;
        break;
    case 7:
        identity.ctime_ns = UINT32_MAX;
        break;
    case 8:
        entry.mode = 0644;
        break;
    case 9:
        entry.mode = S_IFLNK;
        break;
    default:
        entry.mode = S_IFCHR;
        entry.dev_major = UINT32_MAX;
    }
    return layout_add(layout, &entry, &identity);
}

static void make_two_names(struct buf *bytes, bool with_refusals)
{
    const int wanted[] = {-EOVERFLOW, -EOVERFLOW, -EOVERFLOW, -EOVERFLOW, -EOVERFLOW, -EOVERFLOW,
                          -EINVAL,    -EINVAL,    -EINVAL,    -EINVAL,    -EINVAL};
    struct layout *layout cleanup_layout = layout_with_root();
    struct layout_identity identity = {1, 99, 5, 4, 0};
    struct tar_entry entry = {.name = STR("file"), .mode = S_IFREG, .size_bytes = 3};
    for (size_t i = 0; with_refusals && i < sizeof(wanted) / sizeof(wanted[0]); i++)
        assert_int_equal(add_refused(layout, i), wanted[i]);
    assert_int_equal(layout_add(layout, &entry, &identity), 0);
    for (size_t i = 0; with_refusals && i < 8; i++) /* now as a second name of the file */
        if (i != 3 && i != 5)
            assert_int_equal(add_refused(layout, i), wanted[i]);
    entry.name = STR("link");
    assert_int_equal(layout_add(layout, &entry, &identity), 0);
    layout_finish(layout);
    int64_t s;
    uint32_t ns;
    layout_newest(layout, &s, &ns);
    assert_int_equal(s, 4);
    write_archive(layout, bytes);
}

/* A refused entry leaves no trace, wherever it was refused. */
static void test_refusals_leave_the_layout_alone(unused_arg void **state)
{
    struct buf with cleanup_buf;
    struct buf without cleanup_buf;
    make_two_names(&with, true);
    make_two_names(&without, false);
    assert_int_equal(with.len, without.len);
    assert_memory_equal(with.data, without.data, with.len);
}

/* What is accepted at all our reader takes, and Go's, which has the same limit. */
static void test_largest_headers(unused_arg void **state)
{
    static char value[LAYOUT_HEADER_MAX_BYTES];
    struct tar_xattr xattr = {STR("user.big"), value, LAYOUT_HEADER_MAX_BYTES - 1024};
    struct tar_entry entry = {
        .name = STR("f"), .mode = S_IFREG | 0644, .xattrs = &xattr, .xattr_count = 1};
    struct layout *layout cleanup_layout = layout_with_root();
    while (add(layout, &entry) == -EOVERFLOW)
        xattr.value_bytes--;
    layout_finish(layout);
    struct layout_slot slot;
    layout_slot(layout, 1, &slot);
    assert_int_equal(slot.header_bytes, LAYOUT_HEADER_MAX_BYTES);
    struct buf archive cleanup_buf;
    struct buf wanted cleanup_buf;
    struct tar_entry root = {.name = STR(""), .mode = S_IFDIR | 0755, .mtime_s = 1000};
    buf_init(&wanted, LISTING_MAX);
    add_line(&wanted, &root, 0);
    add_line(&wanted, &entry, 0);
    write_archive(layout, &archive);
    assert_listing(&archive, buf_string(&wanted));
    assert_scans(&archive, 2);
}

static void test_huge_files(unused_arg void **state)
{
    struct layout *layout cleanup_layout = layout_with_root();
    assert_int_equal(add_name(layout, "below", S_IFREG, 8 * GIB - 1), 0);
    assert_int_equal(add_name(layout, "big", S_IFREG, 8 * GIB), 0);
    assert_int_equal(add_name(layout, "huge", S_IFREG, UINT64_C(1) << 62), 0);
    assert_int_equal(add_name(layout, "more", S_IFREG, UINT64_C(1) << 62), -EOVERFLOW);
    assert_int_equal(add_name(layout, "last", S_IFREG, 1), 0);
    layout_finish(layout);
    struct layout_slot slot;
    layout_slot(layout, 4, &slot);
    assert_int_equal(slot.offset,
                     512 + (512 + 8 * GIB) + (512 * 3 + 8 * GIB) + (512 * 3 + (UINT64_C(1) << 62)));
    struct layout_piece piece;
    assert_int_equal(layout_data(layout, 3, 40 * GIB + 3, &piece, NULL), 0);
    assert_int_equal(piece.file_offset, 40 * GIB + 3);
    assert_int_equal(piece.bytes, (UINT64_C(1) << 62) - 40 * GIB - 3);
}

static void test_newest(unused_arg void **state)
{
    const struct {
        int64_t mtime_s, ctime_s;
        uint32_t mtime_ns, ctime_ns;
        int64_t s;
        uint32_t ns;
    } steps[] = {
        {-50, -60, 7, 8, -60, 8}, {-50, -50, 6, 9, -50, 9},  {-10, -90, 0, 0, -50, 9},
        {-11, -10, 5, 1, -10, 1}, {100, 200, 50, 0, 200, 0}, {300, 200, 0, 999, 200, 999},
    };
    struct layout *layout cleanup_layout = layout_new();
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        char name[] = "a";
        name[0] = i ? (char)('a' + i) : '\0';
        struct tar_entry entry = {.name = name,
                                  .mode = i ? S_IFREG : S_IFDIR,
                                  .mtime_s = steps[i].mtime_s,
                                  .mtime_ns = steps[i].mtime_ns};
        struct layout_identity identity = {1, i, 1, steps[i].ctime_s, steps[i].ctime_ns};
        assert_int_equal(layout_add(layout, &entry, &identity), 0);
        int64_t s;
        uint32_t ns;
        layout_newest(layout, &s, &ns);
        assert_int_equal(s, steps[i].s);
        assert_int_equal(ns, steps[i].ns);
    }
}

/* ---- a million entries ------------------------------------------------------------------- */

#define MANY 1000000

static size_t heap_bytes(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

static size_t add_many(struct layout *layout)
{
    char name[64] = "";
    size_t name_bytes = 1;
    for (size_t i = 1; i < MANY; i++) {
        bool is_directory = i % 1000 == 1;
        if (is_directory)
            (void)snprintf(name, sizeof(name), "directory%04zu", i / 1000);
        else
            (void)snprintf(name + 13, sizeof(name) - 13, "/file%06zu", i);
        name_bytes += is_directory ? 14 : 11;
        struct tar_entry entry = {.name = name,
                                  .mode = is_directory ? S_IFDIR | 0755 : S_IFREG | 0644,
                                  .mtime_s = 1700000000,
                                  .mtime_ns = (uint32_t)i,
                                  .size_bytes = is_directory ? 0 : i};
        struct layout_identity identity = {7, i, i % 10 ? 1 : 2, 0, 0};
        assert_int_equal(layout_add(layout, &entry, &identity), 0);
    }
    return name_bytes;
}

static void test_memory_of_a_million(unused_arg void **state)
{
    (void)malloc_trim(0);
    size_t before = heap_bytes();
    struct layout *layout cleanup_layout = layout_with_root();
    size_t name_bytes = add_many(layout);
    layout_finish(layout);
    assert_int_equal(layout_count(layout), MANY);
    if (heap_bytes() > 0) { /* sanitizers do not tell */
        size_t used = heap_bytes() - before;
        print_message("%zu bytes an entry beside its name\n", (used - name_bytes) / MANY);
        assert_true(used - name_bytes <= (size_t)MANY * LAYOUT_ENTRY_BYTES);
    }
    struct layout_slot slot;
    for (size_t i = 0; i < MANY; i += 997) {
        struct layout_slot found;
        layout_slot(layout, i, &slot);
        assert_int_equal(layout_find(layout, slot.offset + slot.slot_bytes - 1, &found), 1);
        assert_int_equal(found.index, i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_of_a_million),
        cmocka_unit_test(test_reader_sees_every_entry),
        cmocka_unit_test(test_same_entries_same_bytes),
        cmocka_unit_test(test_slots_follow_each_other),
        cmocka_unit_test(test_programs_list_it),
        cmocka_unit_test(test_acls_as_text_too),
        cmocka_unit_test(test_unknown_acls),
        cmocka_unit_test(test_reader_understands_acls),
        cmocka_unit_test(test_hard_links),
        cmocka_unit_test(test_sparse_maps),
        cmocka_unit_test(test_bad_extents),
        cmocka_unit_test(test_map_in_pieces),
        cmocka_unit_test(test_big_sparse_file),
        cmocka_unit_test(test_fillers),
        cmocka_unit_test(test_programs_take_fillers),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_sockets_are_left_out),
        cmocka_unit_test(test_nothing_is_an_archive_too),
        cmocka_unit_test(test_refusals_leave_the_layout_alone),
        cmocka_unit_test(test_largest_headers),
        cmocka_unit_test(test_huge_files),
        cmocka_unit_test(test_newest),
    };
    return cmocka_run_group_tests(tests, make_cases, drop_cases);
}
