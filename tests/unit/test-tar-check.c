/* SPDX-License-Identifier: MIT */
#include "test-tar.h"

#include "tar/check.h"

/* Checks the bytes; on success *ret_check is set where wanted. */
static int check_bytes(const struct buf *archive, uint64_t max_data_bytes, struct cancel *cancel,
                       struct tar_check **ret_check, struct fail *why)
{
    int fd cleanup_close = open_bytes(archive->data, archive->len);
    struct tar_check *check = NULL;
    int r = tar_check_run(fd, max_data_bytes, cancel, &check, why);
    assert_true((r == 0) == (check != NULL));
    if (ret_check && r == 0)
        *ret_check = check;
    else
        tar_check_free(check);
    return r;
}

/*
 * One member a word: "d:NAME" a directory, "f:NAME" a file of 3 bytes, "l:NAME:TARGET"
 * a symlink, "h:NAME:TARGET" a hard link, "p:" a fifo, "c:" and "b:" devices.
 */
static void make_archive(struct buf *archive, const char *members)
{
    char text[2000];
    buf_init(archive, BYTES_MAX);
    (void)snprintf(text, sizeof(text), "%s", members);
    char *rest = text;
    for (char *word = strsep(&rest, " "); word && *word; word = strsep(&rest, " ")) {
        char *target = word + 2;
        const char *name = strsep(&target, ":");
        switch (word[0]) {
        case 'd':
            add_simple(archive, name, S_IFDIR | 0755, NULL);
            break;
        case 'f':
            add_simple(archive, name, S_IFREG | 0644, "abc");
            break;
        case 'l':
            add_simple(archive, name, S_IFLNK | 0777, target);
            break;
        case 'h':
            add_hard_link(archive, name, target);
            break;
        case 'p':
            add_simple(archive, name, S_IFIFO | 0644, NULL);
            break;
        default:
            add_simple(archive, name, (word[0] == 'c' ? S_IFCHR : S_IFBLK) | 0644, NULL);
        }
    }
    add_end(archive);
}

static int check_members(const char *members, struct tar_check **ret_check, struct fail *why)
{
    struct buf archive cleanup_buf;
    make_archive(&archive, members);
    return check_bytes(&archive, 1000000, NULL, ret_check, why);
}

static void test_verdicts(unused_arg void **state)
{
    static const struct {
        const char *members;
        int result;
        const char *named; /* in the sentence */
    } cases[] = {
        {"d: d:a f:a/b", 0, NULL},
        {"f:a", 0, NULL},
        {"f:a/b/c f:a/d", 0, NULL},
        {"f:a/b d:a", 0, NULL},
        {"l:a:/etc l:b:../.. l:c:c", 0, NULL}, /* where symlinks point is their own affair */
        {"p:p c:c b:b", 0, NULL},
        {"f:.. ", -EPERM, ".."},
        {"f:../a", -EPERM, "../a"},
        {"f:a/../b", -EPERM, "a/../b"},
        {"f:a/..", -EPERM, "a/.."},
        {"f:..a f:a.. f:...", 0, NULL},
        {"f:/a", -EPERM, "/a"},
        {"d:/", -EPERM, "/"},
        {"l:/a:b", -EPERM, "/a"},
        {"d:/etc/", -EPERM, "/etc"},
        /* through a symlink */
        {"l:a:b f:a/x", -EPERM, "a/x"},
        {"l:a:/etc d:a/x", -EPERM, "a/x"},
        {"l:a:b f:a/x/y/z", -EPERM, "a/x/y/z"},
        {"f:a/x l:a:b", -EPERM, "a"},
        {"f:a/x/y l:a:b", -EPERM, "a"},
        {"d:a l:a:b", 0, NULL},
        {"l:a:b d:a f:a/x", 0, NULL}, /* replaced by a directory before */
        {"l:a:b h:c:a f:c/x", -EPERM, "c/x"},
        {"l:a:b f:x h:a/y:x", -EPERM, "a/y"},
        {"l:a:b h:c:a/x", -EPERM, "c"},
        /* below what is no directory */
        {"f:a f:a/x", -EINVAL, "a/x"},
        {"p:a f:a/x", -EINVAL, "a/x"},
        {"c:a d:a/x", -EINVAL, "a/x"},
        {"f:a/x f:a", -EINVAL, "a"},
        {"f:a/x h:a:a/x", -EINVAL, "a"},
        {"f:a h:b:a f:b/x", -EINVAL, "b/x"},
        {"f:a d:a f:a/x", 0, NULL},
        /* hard links */
        {"f:a h:b:a h:c:b", 0, NULL},
        {"f:d/a h:d/b:d/a", 0, NULL},
        {"f:a h:b:./a", 0, NULL},
        {"l:a:x h:b:a", 0, NULL},
        {"p:a h:b:a", 0, NULL},
        {"h:b:a f:a", -EINVAL, "b"},
        {"h:b:a", -EINVAL, "b"},
        {"d:a h:b:a", -EINVAL, "b"},
        {"f:a/x h:b:a", -EINVAL, "b"},
        {"f:a h:b:", -EINVAL, "b"},
        {"f:a h:b:/a", -EPERM, "b"},
        {"f:a h:b:/etc/passwd", -EPERM, "b"},
        {"f:a h:b:../a", -EPERM, "b"},
        {"f:a h:b:x/../../a", -EPERM, "b"},
        {"f:a h:b:a/x", -EINVAL, "b"},
        {"f:a h:a:a", -EINVAL, "a"},
        {"f:a f:a h:b:a f:a", 0, NULL},
        /* the same name twice */
        {"f:a f:a d:a p:a l:a:x f:a", 0, NULL},
        {"d:a f:a/x d:a f:a/x", 0, NULL},
        {"d: d: ", 0, NULL},
        {"d:a f:a/x f:a", -EINVAL, "a"},
        {"", -EINVAL, "no members"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct fail why = FAIL_INIT;
        int r = check_members(cases[i].members, NULL, &why);
        if (r != cases[i].result)
            fail_msg("%s: %d (%s)", cases[i].members, r, why.text);
        if (r < 0 && !strstr(why.text, cases[i].named))
            fail_msg("%s: %s", cases[i].members, why.text);
    }
}

static void test_counts(unused_arg void **state)
{
    struct tar_check *check cleanup_tar_check = NULL;
    assert_int_equal(check_members("d: f:a f:b f:a h:c:a l:l:x", &check, NULL), 0);
    assert_int_equal(tar_check_members(check), 6);
    assert_int_equal(tar_check_data_bytes(check), 9);
    assert_true(tar_check_has_root(check));
    struct tar_check *bare cleanup_tar_check = NULL;
    assert_int_equal(check_members("d:a", &bare, NULL), 0);
    assert_false(tar_check_has_root(bare));
    assert_int_equal(tar_check_data_bytes(bare), 0);
}

static void test_against(unused_arg void **state)
{
    static const struct {
        const char *members;
        const char *name;
        mode_t mode;
        int result;
    } cases[] = {
        {"d:a f:a/b", "a", S_IFDIR, 0},
        {"d:a f:a/b", "a/b", S_IFREG, 0},
        {"d:a f:a/b", "a/b/c", S_IFREG, -EISDIR},
        {"d:a f:a/b", "a/b/c/d/e", S_IFLNK, -EISDIR},
        {"l:a:x", "a/b", S_IFREG, -EISDIR},
        {"l:a:x", "a", S_IFDIR, 0},
        {"f:x h:a:x", "a/b", S_IFREG, -EISDIR},
        {"f:a", "b/c", S_IFREG, 0},
        {"f:a", "", S_IFDIR, 0},
        {"f:a/b", "a", S_IFDIR, 0},
        {"f:a/b", "a", S_IFLNK, -EPERM},
        {"f:a/b", "a", S_IFREG, -ENOTDIR},
        {"f:a/b", "a", S_IFSOCK, -ENOTDIR},
        {"f:a/b/c", "a/b", S_IFLNK, -EPERM},
        {"f:a/b/c", "a", S_IFLNK, -EPERM},
        {"d:a/b f:a/b/c", "a/b", S_IFLNK, 0},
        {"d:a/b f:a/b/c", "a", S_IFLNK, -EPERM},
        {"d:a f:a/b", "a", S_IFLNK, 0}, /* the archive's directory replaces it */
        {"d:a f:a/b", "a", S_IFREG, 0},
        {"f:a/b d:a", "a", S_IFLNK, 0},
        {"d:a", "a", S_IFLNK, 0},
        {"f:a", "a", S_IFLNK, 0},
        {"f:a", "a\n", S_IFLNK, 0},
        {"f:ab", "a", S_IFREG, 0},
        {"f:a/bc", "a/b", S_IFREG, 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct tar_check *check cleanup_tar_check = NULL;
        struct fail why = FAIL_INIT;
        assert_int_equal(check_members(cases[i].members, &check, &why), 0);
        int r = tar_check_against(check, cases[i].name, cases[i].mode | 0755, &why);
        if (r != cases[i].result || (r < 0 && !strstr(why.text, cases[i].name)))
            fail_msg("%s against %s: %d (%s)", cases[i].members, cases[i].name, r, why.text);
    }
    struct tar_check *check cleanup_tar_check = NULL;
    assert_int_equal(check_members("f:a", &check, NULL), 0);
    char long_name[300];
    memset(long_name, 'n', sizeof(long_name));
    long_name[299] = '\0';
    assert_int_equal(tar_check_against(check, long_name, S_IFREG, NULL), 0);
}

/* Levels of one letter each: a name of `levels` * 2 - 1 bytes. */
static char *deep_name(size_t levels)
{
    char *name = malloc(levels * 2);
    assert_non_null(name);
    for (size_t i = 0; i < levels; i++)
        memcpy(name + 2 * i, "d/", 2);
    name[levels * 2 - 1] = '\0';
    return name;
}

static void test_lengths(unused_arg void **state)
{
    static const struct {
        size_t levels;
        int result;
    } cases[] = {
        {TAR_CHECK_PATH_MAX / 2, 0}, {TAR_CHECK_PATH_MAX / 2 + 1, -EINVAL}, {10000, -EINVAL}};
    for (size_t i = 0; i < 3; i++)
        for (int is_link = 0; is_link < 2; is_link++) {
            struct buf archive cleanup_buf;
            struct fail why = FAIL_INIT;
            cleanup_free char *name = deep_name(cases[i].levels);
            buf_init(&archive, BYTES_MAX);
            add_simple(&archive, "d/d", S_IFDIR | 0755, NULL);
            if (is_link)
                add_hard_link(&archive, "link", name);
            else
                add_simple(&archive, name, S_IFREG | 0644, "");
            add_end(&archive);
            int r = check_bytes(&archive, 0, NULL, NULL, &why);
            assert_int_equal(r, is_link ? -EINVAL : cases[i].result);
        }
    for (size_t len = 255; len <= 256; len++)
        for (int is_link = 0; is_link < 2; is_link++) {
            struct buf archive cleanup_buf;
            char name[300] = "d/";
            memset(name + 2, 'n', len);
            buf_init(&archive, BYTES_MAX);
            add_simple(&archive, name, S_IFREG | 0644, "");
            if (is_link)
                add_hard_link(&archive, "link", name);
            add_end(&archive);
            assert_int_equal(check_bytes(&archive, 0, NULL, NULL, NULL), len == 255 ? 0 : -EINVAL);
        }
}

static void test_unknown_types(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    make_archive(&archive, "f:a");
    archive.data[156] = 'M'; /* the rest of a file on another volume */
    fix_checksum(archive.data);
    struct fail why = FAIL_INIT;
    assert_int_equal(check_bytes(&archive, 100, NULL, NULL, &why), -EINVAL);
    assert_non_null(strstr(why.text, "a: "));
}

/* One that the kernel would refuse ends the engine's unpacking in its middle. */
static void test_attributes(unused_arg void **state)
{
    static char long_name[5 + 251 + 1] = "user.";
    static char value[65536 + 1];
    (void)memset(long_name + 5, 'n', 251);
    const struct {
        const char *name;
        const void *value;
        size_t bytes;
        int result;
        unsigned left_out;
    } cases[] = {
        {"com.apple.quarantine", "x", 1, 0, 1},
        {"btrfs.compression", "zstd", 4, 0, 1},
        {"system.nfs4_acl", "x", 1, 0, 1},
        {long_name + 1, "", 0, 0, 1},
        {long_name, "", 0, -EINVAL, 0},
        {"user.a", value, 65536, 0, 0},
        {"user.a", value, 65537, -EINVAL, 0},
        {"user.", "x", 1, -EINVAL, 0},
        {"trusted.a", "x", 1, 0, 0},
        {"security.capability", "\1\0\0\2................", 20, 0, 0},
        {"security.capability", "\0\0\0\2................", 20, 0, 0},
        {"security.capability", "\2\0\0\2................", 20, -EINVAL, 0},
        {"security.capability", "\1\0\0\2...............", 19, -EINVAL, 0},
        {"security.capability", "\1\0\0\3................", 20, -EINVAL, 0},
        {"security.capability", "\1\0\0\3................\0\0\0\0", 24, 0, 0},
        {"security.capability", "\1\0\0\3................\xff\xff\xff\xff", 24, -EINVAL, 0},
        {"security.capability", "", 0, -EINVAL, 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct tar_entry entry cleanup_tar_entry = {.name = strdup("f"), .mode = S_IFREG | 0644};
        struct buf archive cleanup_buf;
        struct fail why = FAIL_INIT;
        struct tar_check *check cleanup_tar_check = NULL;
        buf_init(&archive, BYTES_MAX);
        assert_int_equal(tar_entry_add_xattr(&entry, cases[i].name, cases[i].value, cases[i].bytes),
                         0);
        add_member(&archive, &entry, NULL);
        add_end(&archive);
        int r = check_bytes(&archive, 100, NULL, &check, &why);
        if (r != cases[i].result || (r < 0 && !strstr(why.text, "attribute")) ||
            (r == 0 && tar_check_left_out(check) != cases[i].left_out))
            fail_msg("case %zu: %d (%s)", i, r, why.text);
    }
}

/* The root is a directory, by whatever name it comes. */
static void test_roots(unused_arg void **state)
{
    static const char *const names[] = {".", "./", "././/", "./."};
    for (size_t i = 0; i < 4; i++)
        for (int type = '0'; type <= '5'; type++) {
            struct buf archive cleanup_buf;
            make_archive(&archive, "f:a d:");
            char *root = archive.data + 1024;
            memset(root, 0, 100);
            memcpy(root, names[i], strlen(names[i]));
            root[156] = (char)type;
            root[157] = 'a';
            fix_checksum(root);
            struct tar_check *check cleanup_tar_check = NULL;
            int r = check_bytes(&archive, 100, NULL, &check, NULL);
            bool is_dir = type == '5' || (type == '0' && names[i][strlen(names[i]) - 1] == '/');
            assert_int_equal(r, is_dir ? 0 : -EINVAL);
            if (r == 0)
                assert_true(tar_check_has_root(check));
        }
}

static void test_space(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    struct fail why = FAIL_INIT;
    make_archive(&archive, "f:a f:b h:c:a f:d");
    assert_int_equal(check_bytes(&archive, 9, NULL, NULL, &why), 0);
    assert_int_equal(check_bytes(&archive, 8, NULL, NULL, &why), -ENOSPC);
    assert_non_null(strstr(why.text, "d: "));
    assert_int_equal(check_bytes(&archive, 0, NULL, NULL, &why), -ENOSPC);
    struct buf huge cleanup_buf;
    make_archive(&huge, "f:a");
    memcpy(huge.data + 124, "\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xf0\0", 12);
    fix_checksum(huge.data);
    assert_int_equal(check_bytes(&huge, 1 << 20, NULL, NULL, &why), -ENOSPC);
    assert_int_equal(check_bytes(&huge, UINT64_MAX, NULL, NULL, &why), -EILSEQ);
}

/* Holes count as what they will be when written. */
static void test_holes_take_space(unused_arg void **state)
{
    shell("truncate -s 100M holes && echo x >> holes && tar -S --format=gnu -cf holes.tar holes");
    struct tar_check *check cleanup_tar_check = NULL;
    int fd cleanup_close = open("holes.tar", O_RDONLY | O_CLOEXEC);
    assert_int_equal(tar_check_run(fd, 104857602, NULL, &check, NULL), 0);
    assert_int_equal(tar_check_data_bytes(check), 104857602);
    struct tar_check *none cleanup_tar_check = NULL;
    assert_int_equal(tar_check_run(fd, 104857601, NULL, &none, NULL), -ENOSPC);
}

static void test_damage(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    make_archive(&archive, "d: d:a f:a/b f:c");
    for (size_t len = 0; len < archive.len; len += 64) {
        struct fail why = FAIL_INIT;
        struct buf cut = {.data = archive.data, .len = len};
        assert_int_equal(check_bytes(&cut, 1000, NULL, NULL, &why), -EILSEQ);
        assert_true(why.text[0] != '\0');
    }
}

static void test_cancel(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    make_archive(&archive, "d: f:a");
    struct cancel *cancel cleanup_cancel = cancel_new();
    assert_int_equal(check_bytes(&archive, 1000, cancel, NULL, NULL), 0);
    cancel_raise(cancel);
    assert_int_equal(check_bytes(&archive, 1000, cancel, NULL, NULL), -EINTR);
}

/* Names of raw bytes, and many of them. */
static void test_many_names(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    buf_init(&archive, BYTES_MAX);
    for (int i = 0; i < 60000; i++) {
        char name[64];
        (void)snprintf(name, sizeof(name), "\xff%d/\n%d/e\xcc\x81%d", i % 7, i % 300, i);
        add_simple(&archive, name, S_IFREG | 0644, "");
    }
    add_end(&archive);
    struct tar_check *check cleanup_tar_check = NULL;
    assert_int_equal(check_bytes(&archive, 1000, NULL, &check, NULL), 0);
    assert_int_equal(tar_check_members(check), 60000);
    assert_int_equal(tar_check_against(check,
                                       "\xff"
                                       "6/\n6/e\xcc\x81"
                                       "6",
                                       S_IFDIR, NULL),
                     0);
    assert_int_equal(tar_check_against(check,
                                       "\xff"
                                       "6/\n6/e\xcc\x81"
                                       "6/x",
                                       S_IFREG, NULL),
                     -EISDIR);
    assert_int_equal(tar_check_against(check,
                                       "\xff"
                                       "6/\n6/\xc3\xa9"
                                       "6/x",
                                       S_IFREG, NULL),
                     0);
}

/* Sentences go to terminals: no control characters from names. */
static void test_sentences_are_printable(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    struct fail why = FAIL_INIT;
    buf_init(&archive, BYTES_MAX);
    add_simple(&archive, "/\x1b[31m\n\x7f", S_IFREG | 0644, "");
    add_end(&archive);
    assert_int_equal(check_bytes(&archive, 1000, NULL, NULL, &why), -EPERM);
    for (const char *c = why.text; *c; c++)
        assert_true((unsigned char)*c >= 0x20 && *c != 0x7f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verdicts),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_against),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_unknown_types),
        cmocka_unit_test(test_attributes),

        cmocka_unit_test(test_roots),
        cmocka_unit_test(test_space),
        cmocka_unit_test(test_holes_take_space),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_many_names),
        cmocka_unit_test(test_sentences_are_printable),
    };
    return cmocka_run_group_tests(tests, enter_tar_test_dir, leave_test_dir);
}
