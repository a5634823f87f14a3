/* SPDX-License-Identifier: MIT */
#include "test-tar.h"

#include "tar/scan.h"

static int note_line(void *data, const struct tar_entry *entry, unused_arg struct fail *why)
{
    add_line(data, entry, 0);
    return 0;
}

/* Pushes the bytes in pieces of at most `piece` (0: of random lengths), and finishes. */
static int scan_pieces(const char *bytes, size_t len, size_t piece, struct buf *listing)
{
    struct fail why = FAIL_INIT;
    struct tar_scan *scan cleanup_tar_scan = tar_scan_new(listing ? note_line : NULL, listing);
    assert_non_null(scan);
    int r = 0;
    while (r == 0 && len > 0) {
        size_t n = piece ? piece : (size_t)random() % 1500;
        n = n < len ? n : len;
        /* a copy of just these bytes, for the sanitizer to guard */
        cleanup_free char *copy = malloc(n + !n);
        memcpy(copy, bytes, n);
        r = tar_scan_push(scan, copy, n, &why);
        bytes += n;
        len -= n;
    }
    if (r == 0)
        r = tar_scan_finish(scan, &why);
    assert_true(r == 0 || why.text[0]);
    return r;
}

static int scan_all(const struct buf *archive)
{
    return scan_pieces(archive->data, archive->len, archive->len, NULL);
}

static char long_name[2001];

/* What Go's writer may send on the way: every type, pax and not. */
static void make_archive(struct buf *archive)
{
    for (size_t i = 0; i < sizeof(long_name) - 1; i++)
        long_name[i] = i % 100 == 99 ? '/' : 'n';
    long_name[sizeof(long_name) - 2] = 'e';
    buf_init(archive, BYTES_MAX);
    add_simple(archive, "", S_IFDIR | 0755, NULL);
    add_simple(archive, "dir", S_IFDIR | 0755, NULL);
    add_simple(archive, "dir/empty", S_IFREG | 0644, "");
    add_simple(archive, "dir/file", S_IFREG | 0644, "some text");
    add_simple(archive, long_name, S_IFREG | 0644, long_name);
    add_simple(archive, "dir/link", S_IFLNK | 0777, long_name);
    add_simple(archive, "fifo", S_IFIFO | 0644, NULL);
    add_hard_link(archive, "dir/hard", long_name);
    struct tar_entry entry = {
        .name = STR("numbers"),
        .mode = S_IFREG | 07777,
        .size_bytes = 5000,
        .uid = 3000000,
        .gid = UINT32_MAX,
        .mtime_s = 1000000001,
        .mtime_ns = 1,
    };
    add_member(archive, &entry, NULL);
    entry = (struct tar_entry){.name = STR("old"), .mode = S_IFREG, .mtime_s = -3};
    entry.mtime_ns = 250000000;
    add_member(archive, &entry, NULL);
    entry = (struct tar_entry){.name = STR("tty"), .mode = S_IFCHR, .dev_major = 5, .dev_minor = 1};
    assert_int_equal(tar_entry_add_xattr(&entry, "security.capability", "\1\0\0\2", 4), 0);
    entry.name = STR("tty");
    add_member(archive, &entry, NULL);
    entry.name = NULL;
    tar_entry_done(&entry);
}

static void test_pieces_of_any_length(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    struct buf wanted cleanup_buf;
    make_archive(&archive);
    add_end(&archive);
    buf_init(&wanted, LISTING_MAX);
    assert_int_equal(scan_pieces(archive.data, archive.len, archive.len, &wanted), 0);
    static const size_t pieces[] = {1, 2, 3, 7, 511, 512, 513, 1024, 5000, 0, 0, 0, 0, 0, 0, 0, 0};
    srandom(1);
    for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
        struct buf listing cleanup_buf;
        buf_init(&listing, LISTING_MAX);
        assert_int_equal(scan_pieces(archive.data, archive.len, pieces[i], &listing), 0);
        assert_string_equal(buf_string(&listing), buf_string(&wanted));
    }
}

static void test_what_is_told(unused_arg void **state)
{
    static const char *const lines[] = {
        " 40755 0:0 1000000000.000000000 0 00000000 0,0 \n",
        "6469722f66696c65 100644 0:0 1000000000.000000000 9 00000000 0,0 \n",
        "6669666f 10644 0:0 ",
        "6469722f68617264 100644H 0:0 0.000000000 0 00000000 0,0 6e6e6e",
        "6e756d62657273 107777 3000000:4294967295 1000000001.000000001 5000 00000000 0,0 \n",
        "6f6c64 100000 0:0 -3.250000000 0 ",
        "747479 20000 0:0 0.000000000 0 00000000 5,1 \n",
    };
    struct buf archive cleanup_buf;
    struct buf listing cleanup_buf;
    make_archive(&archive);
    add_end(&archive);
    buf_init(&listing, LISTING_MAX);
    assert_int_equal(scan_pieces(archive.data, archive.len, 100, &listing), 0);
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
        if (!strstr(buf_string(&listing), lines[i]))
            fail_msg("no %s in\n%s", lines[i], buf_string(&listing));
}

/* The stream ends early: at every byte, it is not whole. */
static void test_cut_anywhere(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    make_archive(&archive);
    add_end(&archive);
    for (size_t len = 0; len < archive.len; len++)
        assert_int_equal(scan_pieces(archive.data, len, len, NULL), -EILSEQ);
}

/* moby's way of not finishing: members are missing, and the closing blocks. */
static void test_no_closing_blocks(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    make_archive(&archive);
    assert_int_equal(scan_all(&archive), -EILSEQ);
    assert_int_equal(buf_add_zeros(&archive, 512), 0);
    assert_int_equal(scan_all(&archive), -EILSEQ);
    assert_int_equal(buf_add_zeros(&archive, 512), 0);
    assert_int_equal(scan_all(&archive), 0);
    assert_int_equal(buf_add_zeros(&archive, 10001), 0);
    assert_int_equal(scan_all(&archive), 0);
    assert_int_equal(buf_add(&archive, "x", 1), 0);
    assert_int_equal(scan_all(&archive), -EILSEQ);
}

static void test_lone_zero_block(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    buf_init(&archive, BYTES_MAX);
    add_simple(&archive, "a", S_IFREG, "x");
    assert_int_equal(buf_add_zeros(&archive, 512), 0);
    add_simple(&archive, "b", S_IFREG, "x");
    add_end(&archive);
    assert_int_equal(scan_all(&archive), -EILSEQ);
}

static void test_empty(unused_arg void **state)
{
    static const char zeros[1024];
    assert_int_equal(scan_pieces(zeros, 1024, 1024, NULL), 0);
    assert_int_equal(scan_pieces(zeros, 0, 1, NULL), -EILSEQ);
    struct tar_scan *scan cleanup_tar_scan = tar_scan_new(NULL, NULL);
    int64_t s = 7;
    uint32_t ns = 7;
    tar_scan_newest(scan, &s, &ns);
    assert_int_equal(tar_scan_count(scan), 0);
    assert_int_equal(s, 0);
    assert_int_equal(ns, 0);
}

static void test_newest(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    make_archive(&archive);
    struct tar_scan *scan cleanup_tar_scan = tar_scan_new(NULL, NULL);
    assert_int_equal(tar_scan_push(scan, archive.data, archive.len, NULL), 0);
    int64_t s;
    uint32_t ns;
    tar_scan_newest(scan, &s, &ns);
    assert_int_equal(tar_scan_count(scan), 11);
    assert_int_equal(s, 1000000001);
    assert_int_equal(ns, 1);

    struct tar_scan *old cleanup_tar_scan = tar_scan_new(NULL, NULL);
    buf_clear(&archive);
    struct tar_entry entry = {.name = STR("f"), .mode = S_IFREG, .mtime_s = -9, .mtime_ns = 3};
    add_member(&archive, &entry, NULL);
    assert_int_equal(tar_scan_push(old, archive.data, archive.len, NULL), 0);
    tar_scan_newest(old, &s, &ns); /* before 1970, and yet the newest */
    assert_int_equal(s, -9);
    assert_int_equal(ns, 3);
}

/* Every bit of a header counts, but for the spellings of its checksum. */
static void test_flipped_bits(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    buf_init(&archive, BYTES_MAX);
    add_simple(&archive, "dir", S_IFDIR | 0755, NULL);
    add_end(&archive);
    for (size_t at = 0; at < 512; at++)
        for (unsigned bit = 0; bit < 8; bit++) {
            archive.data[at] ^= (char)(1U << bit);
            int r = scan_all(&archive);
            archive.data[at] ^= (char)(1U << bit);
            assert_true(r == -EILSEQ || (r == 0 && at >= 148 && at < 156));
        }
}

/* A header with one field overwritten, and its checksum made to fit. */
static int scan_field(size_t at, const char *bytes, size_t len, struct buf *listing)
{
    struct buf archive cleanup_buf;
    buf_init(&archive, BYTES_MAX);
    add_simple(&archive, "dir/file", S_IFREG | 0644, "");
    memcpy(archive.data + at, bytes, len);
    fix_checksum(archive.data);
    add_end(&archive);
    return scan_pieces(archive.data, archive.len, archive.len, listing);
}

static void test_fields(unused_arg void **state)
{
    static const struct {
        size_t at;
        const char *bytes;
        size_t len;
        const char *line; /* part of what is told; NULL: refused */
    } cases[] = {
        {108, "\x80\0\0\0\xff\xff\xff\xfe", 8, " 4294967294:0 "},
        {108, "\xff\xff\xff\xff\xff\xff\xff\xff", 8, NULL}, /* -1 */
        {108, "  17 \0 ", 8, " 15:0 "},
        {108, "\0\0\0\0\0\0\0\0", 8, " 0:0 "},
        {108, "        ", 8, " 0:0 "},
        {108, "00000009", 8, NULL},
        {108, "0000x00", 8, NULL},
        {108, "0000 01", 8, NULL},
        {136, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", 12, " -2.000000000 "},
        {136, "\x80\0\0\0\x01\0\0\0\0\0\0\0", 12, " 72057594037927936.000000000 "},
        {136, "\x80\0\0\x01\0\0\0\0\0\0\0\0", 12, NULL}, /* over 63 bits */
        {124, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 12, NULL},
        {124, "\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", 12, NULL}, /* data is missing */
        {156, "S", 1, NULL},
        {156, "g", 1, NULL},
        {156, "L", 1, NULL},
        {156, "7", 1, NULL},
        {156, "\0", 1, "100644 "},
        {257, "ustar  ", 8, "6469722f66696c65 "},
        {257, "\0\0\0\0\0\0\0\0", 8, NULL},
        {257, "ustar\00001", 8, NULL},
        {345, "a/b", 4, "612f622f6469722f66696c65 "},
        {0, "\0\0\0\0\0\0\0\0\0", 9, NULL}, /* no name */
        {0, "././//x/.//", 12, "78 "},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct buf listing cleanup_buf;
        buf_init(&listing, LISTING_MAX);
        int r = scan_field(cases[i].at, cases[i].bytes, cases[i].len, &listing);
        if (r != (cases[i].line ? 0 : -EILSEQ))
            fail_msg("case %zu: %d", i, r);
        if (cases[i].line && !strstr(buf_string(&listing), cases[i].line))
            fail_msg("case %zu: %s", i, buf_string(&listing));
    }
}

/* records before a file of 5 bytes */
static int scan_pax(const char *records, size_t len, struct buf *listing)
{
    struct buf archive cleanup_buf;
    buf_init(&archive, BYTES_MAX);
    struct tar_entry pax = {.name = STR("x"), .mode = S_IFREG, .size_bytes = len};
    assert_int_equal(tar_header_write(&archive, "", &pax), 0);
    archive.data[156] = 'x';
    fix_checksum(archive.data);
    assert_int_equal(buf_add(&archive, records, len), 0);
    assert_int_equal(buf_add_zeros(&archive, tar_padding_bytes(len)), 0);
    add_simple(&archive, "f", S_IFREG | 0644, "12345");
    add_end(&archive);
    return scan_pieces(archive.data, archive.len, 77, listing);
}

static void test_pax_records(unused_arg void **state)
{
    static const struct {
        const char *records;
        const char *line; /* NULL: refused */
    } cases[] = {
        {"15 path=other/\n", "6f74686572 100644 "},
        {"10 path=a\n10 path=b\n", "62 100644 "},
        {"8 path=\n", "66 100644 "}, /* empty: the header's counts */
        {"13 mtime=1.5\n", " 1.500000000 "},
        {"14 mtime=-1.5\n", " -2.500000000 "},
        {"14 mtime=-0.5\n", " -1.500000000 "},
        {"12 mtime=-5\n", " -5.000000000 "},
        {"11 mtime=7\n", " 7.000000000 "},
        {"22 mtime=1.1234567899\n", " 1.123456789 "},
        {"9 uid=12\n8 gid=9\n", " 12:9 "},
        {"9 size=4\n9 size=5\n", " 5 00000000 "},
        {"15 other=thing\n20 linkpath=ignored\n", "66 100644 "},
        {"12 mtime=x1\n", NULL},
        {"12 mtime=1x\n", NULL},
        {"12 mtime=--\n", NULL},
        {"10 mtime=\n7 uid=\n", "66 100644 0:0 "},
        {"11 uid=-1\n", NULL},
        {"10 uid=1x\n", NULL},
        {"28 size=9223372036854775808\n", NULL},
        {"30 size=99999999999999999999\n", NULL},
        {"28 size=9223372036854775807\n", NULL}, /* its data is missing */
        {"15 path=other/", NULL},
        {"14 path=other/\n", NULL},
        {"16 path=other/\n", NULL},
        {"x15 path=other/\n", NULL},
        {" 15 path=other/\n", NULL},
        {"0 path=other/\n", NULL},
        {"4 =\n\n", NULL},
        {"5 a=\n6 =bc\n", NULL},
        {"7 abcd\n", NULL},
        {"99999999999999999999999 a=b\n", NULL},
        {"\n", NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct buf listing cleanup_buf;
        buf_init(&listing, LISTING_MAX);
        int r = scan_pax(cases[i].records, strlen(cases[i].records), &listing);
        if (r != (cases[i].line ? 0 : -EILSEQ))
            fail_msg("%s: %d", cases[i].records, r);
        if (cases[i].line && !strstr(buf_string(&listing), cases[i].line))
            fail_msg("%s: %s", cases[i].records, buf_string(&listing));
    }
    static const char with_nul[] = "12 path=a\0b\n";
    assert_int_equal(scan_pax(with_nul, sizeof(with_nul) - 1, NULL), -EILSEQ);
}

static void test_large_pax_headers(unused_arg void **state)
{
    struct buf records cleanup_buf;
    buf_init(&records, BYTES_MAX);
    assert_int_equal(buf_add_string(&records, "1000000 SCHILY.xattr.user.big="), 0);
    while (records.len < 999999)
        assert_int_equal(buf_add(&records, "\0", 1), 0);
    assert_int_equal(buf_add(&records, "\n", 1), 0);
    assert_int_equal(scan_pax(records.data, records.len, NULL), 0);
    assert_int_equal(buf_add_string(&records, "50000 a="), 0);
    while (records.len < 1049999)
        assert_int_equal(buf_add(&records, "a", 1), 0);
    assert_int_equal(buf_add(&records, "\n", 1), 0);
    assert_int_equal(scan_pax(records.data, records.len, NULL), -EILSEQ);
}

static int refuse(void *data, const struct tar_entry *entry, struct fail *why)
{
    ++*(int *)data;
    return strcmp(entry->name, "dir") ? 0 : fail_set(why, EDOM, "no dir");
}

static void test_the_callers_error(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    make_archive(&archive);
    int calls = 0;
    struct tar_scan *scan cleanup_tar_scan = tar_scan_new(refuse, &calls);
    struct fail why = FAIL_INIT;
    assert_int_equal(tar_scan_push(scan, archive.data, archive.len, &why), -EDOM);
    assert_string_equal(why.text, "no dir");
    assert_int_equal(calls, 2);
}

/* Archives of other writers that have nothing more in them than Go's. */
static void test_other_writers(unused_arg void **state)
{
    static const char *const commands[] = {
        "bsdtar --format=pax -cf t.tar tree",   "tar --format=pax -cf t.tar tree",
        "tar --format=ustar -cf t.tar tree",    "tar --format=gnu -cf t.tar tree",
        "bsdtar --format=ustar -cf t.tar tree",
    };
    shell("mkdir -p tree/d && head -c 70000 /dev/zero > tree/d/z && ln -s z tree/d/l && "
          "ln tree/d/z tree/h && mkfifo tree/fifo");
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        struct buf archive cleanup_buf;
        shell("%s", commands[i]);
        slurp("t.tar", &archive);
        assert_int_equal(scan_all(&archive), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces_of_any_length),
        cmocka_unit_test(test_what_is_told),
        cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_no_closing_blocks),
        cmocka_unit_test(test_lone_zero_block),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_newest),
        cmocka_unit_test(test_flipped_bits),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_pax_records),
        cmocka_unit_test(test_large_pax_headers),
        cmocka_unit_test(test_the_callers_error),
        cmocka_unit_test(test_other_writers),
    };
    return cmocka_run_group_tests(tests, enter_tar_test_dir, leave_test_dir);
}
