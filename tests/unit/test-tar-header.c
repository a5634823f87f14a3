/* SPDX-License-Identifier: MIT */
#include "test-tar.h"

#include "tar/scan.h"

#define GIB8 (UINT64_C(8) << 30)

static void repeat(char *out, size_t len, const char *pattern)
{
    size_t pattern_len = strlen(pattern);
    for (size_t i = 0; i < len; i++)
        out[i] = pattern[i % pattern_len];
    out[len] = '\0';
}

/* How many bytes the header takes. */
static size_t header_bytes(const struct tar_entry *entry, const char *prefix)
{
    struct buf out cleanup_buf;
    buf_init(&out, 1 << 20);
    assert_int_equal(tar_header_write(&out, prefix, entry), 0);
    assert_int_equal(out.len % TAR_BLOCK_BYTES, 0);
    return out.len;
}

static void test_padding(unused_arg void **state)
{
    assert_int_equal(tar_padding_bytes(0), 0);
    assert_int_equal(tar_padding_bytes(1), 511);
    assert_int_equal(tar_padding_bytes(511), 1);
    assert_int_equal(tar_padding_bytes(512), 0);
    assert_int_equal(tar_padding_bytes(UINT64_MAX), 1);
    assert_int_equal(tar_padding_bytes(GIB8 + 1), 511);
}

/* A pax header is there exactly where ustar cannot hold a value. */
static void test_pax_only_where_needed(unused_arg void **state)
{
    const struct {
        struct tar_entry entry;
        bool pax;
    } cases[] = {
        {{.uid = 2097151, .gid = 2097151}, false},
        {{.uid = 2097152}, true},
        {{.gid = 2097152}, true},
        {{.uid = UINT64_MAX}, true},
        {{.size_bytes = GIB8 - 1}, false},
        {{.size_bytes = GIB8}, true},
        {{.mtime_s = INT64_C(8589934591)}, false},
        {{.mtime_s = INT64_C(8589934592)}, true},
        {{.mtime_s = -1}, true},
        {{.mtime_s = INT64_MIN, .mtime_ns = 1}, true},
        {{.mtime_ns = 1}, true},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct tar_entry entry = cases[i].entry;
        entry.name = STR("f");
        entry.mode = S_IFREG | 0644;
        assert_int_equal(header_bytes(&entry, "") > TAR_BLOCK_BYTES, cases[i].pax);
    }
}

static void test_names_that_fit(unused_arg void **state)
{
    char name[400];
    struct tar_entry entry = {.name = name, .mode = S_IFREG | 0644};
    repeat(name, 100, "n");
    assert_int_equal(header_bytes(&entry, ""), TAR_BLOCK_BYTES);
    repeat(name, 101, "n");
    assert_int_equal(header_bytes(&entry, ""), 3 * TAR_BLOCK_BYTES);
    repeat(name, 256, "n"); /* 155 / 100 */
    name[155] = '/';
    assert_int_equal(header_bytes(&entry, ""), TAR_BLOCK_BYTES);
    repeat(name, 257, "n");
    name[156] = '/';
    assert_int_equal(header_bytes(&entry, ""), 3 * TAR_BLOCK_BYTES);
    entry.mode = S_IFDIR | 0755; /* one more for its '/' */
    repeat(name, 99, "n");
    assert_int_equal(header_bytes(&entry, ""), TAR_BLOCK_BYTES);
    repeat(name, 100, "n");
    assert_int_equal(header_bytes(&entry, ""), 3 * TAR_BLOCK_BYTES);
    assert_int_equal(header_bytes(&entry, "p/"), TAR_BLOCK_BYTES * 3);
    repeat(name, 99, "n");
    assert_int_equal(header_bytes(&entry, "p/"), TAR_BLOCK_BYTES);
    entry.mode = S_IFLNK | 0777;
    entry.name = STR("l");
    entry.link_target = name;
    repeat(name, 100, "t");
    assert_int_equal(header_bytes(&entry, ""), TAR_BLOCK_BYTES);
    repeat(name, 101, "t");
    assert_int_equal(header_bytes(&entry, ""), 3 * TAR_BLOCK_BYTES);
}

static void test_prefix_and_root(unused_arg void **state)
{
    const struct {
        const char *prefix, *name, *written;
        mode_t mode;
    } cases[] = {
        {"", "", "./", S_IFDIR},         {"vol/", "", "vol/", S_IFDIR},
        {"", "d", "d/", S_IFDIR},        {"vol/", "d", "vol/d/", S_IFDIR},
        {"", "d/f", "d/f", S_IFREG},     {"vol/", "d/f", "vol/d/f", S_IFREG},
        {"a/b/", "f", "a/b/f", S_IFREG},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct buf out cleanup_buf;
        buf_init(&out, 4096);
        struct tar_entry entry = {.name = (char *)(uintptr_t)cases[i].name, .mode = cases[i].mode};
        assert_int_equal(tar_header_write(&out, cases[i].prefix, &entry), 0);
        assert_string_equal(out.data, cases[i].written);
    }
    struct buf out cleanup_buf;
    buf_init(&out, 4096);
    struct tar_entry link = {
        .name = STR("l"), .link_target = STR("d/f"), .is_hard_link = 1, .mode = S_IFREG};
    assert_int_equal(tar_header_write(&out, "vol/", &link), 0);
    assert_string_equal(out.data, "vol/l");
    assert_string_equal(out.data + 157, "vol/d/f");
    buf_clear(&out);
    link.is_hard_link = 0;
    link.mode = S_IFLNK;
    assert_int_equal(tar_header_write(&out, "vol/", &link), 0);
    assert_string_equal(out.data + 157, "d/f");
}

static void test_refusals_leave_out_alone(unused_arg void **state)
{
    struct buf out cleanup_buf;
    buf_init(&out, 1024);
    assert_int_equal(buf_add_string(&out, "kept"), 0);
    struct tar_entry entry = {.name = STR("s"), .mode = S_IFSOCK | 0755};
    assert_int_equal(tar_header_write(&out, "", &entry), -EINVAL);
    entry.mode = 0644;
    assert_int_equal(tar_header_write(&out, "", &entry), -EINVAL);
    entry.mode = S_IFCHR;
    entry.dev_major = UINT32_MAX;
    assert_int_equal(tar_header_write(&out, "", &entry), -EINVAL);
    entry = (struct tar_entry){.name = STR("l"), .mode = S_IFLNK};
    assert_int_equal(tar_header_write(&out, "", &entry), -EINVAL);
    entry = (struct tar_entry){.name = STR(""), .mode = S_IFREG};
    assert_int_equal(tar_header_write(&out, "", &entry), -EINVAL);
    entry = (struct tar_entry){.name = STR("f"), .mode = S_IFREG, .mtime_ns = 1};
    assert_int_equal(tar_header_write(&out, "", &entry), -EMSGSIZE);
    assert_string_equal(buf_string(&out), "kept");
    assert_int_equal(out.len, 4);
}

/* Every length of a record, so that the length of its length changes too. */
static void test_record_lengths(unused_arg void **state)
{
    static char value[11000];
    repeat(value, sizeof(value) - 1, "v\n=%0");
    for (size_t len = 0; len < sizeof(value); len += len < 1100 ? 1 : 97) {
        struct buf archive cleanup_buf;
        struct buf listing cleanup_buf;
        buf_init(&archive, BYTES_MAX);
        buf_init(&listing, LISTING_MAX);
        struct tar_entry entry = {.name = STR("f"), .mode = S_IFREG | 0644};
        assert_int_equal(tar_entry_add_xattr(&entry, "user.x", value, len), 0);
        entry.name = STR("f");
        add_member(&archive, &entry, NULL);
        add_end(&archive);
        struct fail why = FAIL_INIT;
        assert_int_equal(list_bytes(archive.data, archive.len, &listing, &why), 0);
        struct buf wanted cleanup_buf;
        buf_init(&wanted, LISTING_MAX);
        add_line(&wanted, &entry, 0);
        assert_string_equal(buf_string(&listing), buf_string(&wanted));
        entry.name = NULL;
        tar_entry_done(&entry);
    }
}

static char long_name[3001];
static char long_component[300];

/* What is written is what readers see: ours, and the other programs'. */
static const struct tar_entry hard_cases[] = {
    {.name = STR(""), .mode = S_IFDIR | 01777, .mtime_s = 5},
    {.name = STR("dir"), .mode = S_IFDIR | 02755, .uid = 1, .gid = 2, .mtime_s = 7, .mtime_ns = 8},
    {.name = STR("dir/new\nline"), .mode = S_IFREG | 04755, .mtime_s = -2, .mtime_ns = 750000000},
    {.name = STR("\xff\xfe invalid"),
     .mode = S_IFREG | 0600,
     .size_bytes = 5,
     .mtime_ns = 999999999},
    {.name = long_component, .mode = S_IFREG | 0644, .size_bytes = 512, .mtime_s = -1000},
    {.name = long_name, .mode = S_IFREG, .size_bytes = 513, .uid = 4294967294, .gid = 4294967294},
    {.name = STR("link"),
     .mode = S_IFLNK | 0777,
     .link_target = STR("\xed\xa0\x80\xed\xb0\x80/../x")},
    {.name = STR("link2"), .mode = S_IFLNK | 0777, .link_target = long_name},
    {.name = STR("fifo"), .mode = S_IFIFO | 0644, .mtime_s = INT64_C(1) << 40},
    {.name = STR("char"), .mode = S_IFCHR | 0644, .dev_major = 4095, .dev_minor = 1048575},
    {.name = STR("block"), .mode = S_IFBLK | 0644, .dev_major = 8},
    {.name = STR("hard"), .mode = S_IFREG, .link_target = long_name, .is_hard_link = 1},
    {.name = STR("e\xcc\x81 decomposed"), .mode = S_IFREG | 0644},
    {.name = STR("\xc3\xa9 composed"), .mode = S_IFREG | 0644},
};
#define HARD_CASES (sizeof(hard_cases) / sizeof(hard_cases[0]))

static void make_hard_cases(struct buf *archive)
{
    repeat(long_component, 255, "\xc3\xa9");
    long_component[253] = 'x'; /* and so not UTF-8 */
    for (size_t i = 0; i < 10; i++) {
        repeat(long_name + i * 250, 249, "e\xcc\x81");
        strcat(long_name, i < 9 ? "/" : "");
    }
    buf_init(archive, BYTES_MAX);
    for (size_t i = 0; i < HARD_CASES; i++)
        add_member(archive, &hard_cases[i], NULL);
    add_end(archive);
}

static void wanted_listing(struct buf *wanted)
{
    buf_init(wanted, LISTING_MAX);
    for (size_t i = 0; i < HARD_CASES; i++)
        add_line(wanted, &hard_cases[i], crc_zeros(0, hard_cases[i].size_bytes));
}

static void test_reader_sees_the_same(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    struct buf wanted cleanup_buf;
    struct buf listing cleanup_buf;
    make_hard_cases(&archive);
    wanted_listing(&wanted);
    buf_init(&listing, LISTING_MAX);
    struct fail why = FAIL_INIT;
    assert_int_equal(list_bytes(archive.data, archive.len, &listing, &why), 0);
    assert_string_equal(buf_string(&listing), buf_string(&wanted));
}

static int note_line(void *data, const struct tar_entry *entry, unused_arg struct fail *why)
{
    add_line(data, entry, crc_zeros(0, entry->size_bytes));
    return 0;
}

static void test_scan_sees_the_same(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    struct buf wanted cleanup_buf;
    struct buf listing cleanup_buf;
    make_hard_cases(&archive);
    wanted_listing(&wanted);
    buf_init(&listing, LISTING_MAX);
    struct tar_scan *scan cleanup_tar_scan = tar_scan_new(note_line, &listing);
    struct fail why = FAIL_INIT;
    assert_int_equal(tar_scan_push(scan, archive.data, archive.len, &why), 0);
    assert_int_equal(tar_scan_finish(scan, &why), 0);
    assert_string_equal(buf_string(&listing), buf_string(&wanted));
}

/* Python's reader, as an independent witness of every field. */
static void test_python_sees_the_same(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    struct buf wanted cleanup_buf;
    struct buf listing cleanup_buf;
    make_hard_cases(&archive);
    spill("hard.tar", archive.data, archive.len);
    static const char script[] =
        "import os, stat, sys, tarfile, zlib\n"
        "from decimal import Decimal\n"
        "kind = {b'0': 0o100000, b'1': 0o100000, b'2': 0o120000, b'3': 0o020000,\n"
        "        b'4': 0o060000, b'5': 0o040000, b'6': 0o010000}\n"
        "t = tarfile.open('hard.tar', errors='surrogateescape', encoding='utf-8')\n"
        "for m in t:\n"
        "    name = os.fsencode(m.name)\n"
        "    name = b'' if name == b'.' else name\n"
        "    ns = int(Decimal(m.pax_headers.get('mtime', m.mtime)) * 1000000000)\n"
        "    crc = zlib.crc32(t.extractfile(m).read()) if m.isreg() else 0\n"
        "    print('%s %o%s %d:%d %d.%09d %d %08x %d,%d %s' % (name.hex(),\n"
        "          kind[m.type] | m.mode, 'H' if m.islnk() else '', m.uid, m.gid,\n"
        "          ns // 1000000000, ns % 1000000000, m.size, crc, m.devmajor, m.devminor,\n"
        "          os.fsencode(m.linkname).hex()))\n";
    spill("list.py", script, strlen(script));
    shell("python3 list.py > python.txt");
    slurp("python.txt", &listing);
    wanted_listing(&wanted);
    assert_string_equal(buf_string(&listing), buf_string(&wanted));
}

/* The programs take it without a word, except for GNU tar about "hdrcharset". */
static void test_programs_take_it(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    make_hard_cases(&archive);
    spill("hard.tar", archive.data, archive.len);
    shell("tar --warning=no-unknown-keyword --quoting-style=escape -tvf hard.tar > gnu.txt 2>&1");
    shell("test $(wc -l < gnu.txt) = %zu", HARD_CASES);
    shell("bsdtar -tf hard.tar > bsd.txt 2>&1");
    shell("busybox tar -tf hard.tar > busybox.txt");
}

static void test_attribute_names(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    struct buf listing cleanup_buf;
    buf_init(&archive, BYTES_MAX);
    buf_init(&listing, LISTING_MAX);
    struct tar_entry entry cleanup_tar_entry = {.name = strdup("f"), .mode = S_IFREG | 0644};
    const char *names[] = {"user.a=b", "user.%3D", "user.%25%3d%", "user.100%", "user.\xff"};
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(tar_entry_add_xattr(&entry, names[i], "\0\n=", 3), 0);
    assert_int_equal(tar_entry_add_xattr(&entry, names[0], "new", 3), 0);
    assert_int_equal(entry.xattr_count, 5);
    add_member(&archive, &entry, NULL);
    add_end(&archive);
    struct fail why = FAIL_INIT;
    assert_int_equal(list_bytes(archive.data, archive.len, &listing, &why), 0);
    struct buf wanted cleanup_buf;
    buf_init(&wanted, LISTING_MAX);
    add_line(&wanted, &entry, 0);
    sort_lines(&wanted);
    /* libarchive hands attributes out in reverse */
    for (size_t i = 0; i < 5; i++)
        assert_non_null(strstr(buf_string(&listing), names[i]));
    assert_int_equal(listing.len, wanted.len);
}

static void test_clean_name(unused_arg void **state)
{
    const char *cases[][2] = {
        {"./", ""},      {".", ""},         {"", ""},         {"././/.", ""},       {"./a", "a"},
        {"././/a", "a"}, {"a//b/", "a/b"},  {"a/./b", "a/b"}, {"/a", "/a"},         {"//a", "/a"},
        {"/", "/"},      {"../a", "../a"},  {"./..", ".."},   {"a/../b", "a/../b"}, {".a", ".a"},
        {"...", "..."},  {"a/.b/", "a/.b"}, {"a/.", "a"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *name = strdup(cases[i][0]);
        tar_entry_clean_name(name);
        assert_string_equal(name, cases[i][1]);
        free(name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_padding),
        cmocka_unit_test(test_pax_only_where_needed),
        cmocka_unit_test(test_names_that_fit),
        cmocka_unit_test(test_prefix_and_root),
        cmocka_unit_test(test_refusals_leave_out_alone),
        cmocka_unit_test(test_record_lengths),
        cmocka_unit_test(test_reader_sees_the_same),
        cmocka_unit_test(test_scan_sees_the_same),
        cmocka_unit_test(test_python_sees_the_same),
        cmocka_unit_test(test_programs_take_it),
        cmocka_unit_test(test_attribute_names),
        cmocka_unit_test(test_clean_name),
    };
    return cmocka_run_group_tests(tests, enter_tar_test_dir, leave_test_dir);
}
