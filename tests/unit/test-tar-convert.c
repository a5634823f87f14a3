/* SPDX-License-Identifier: MIT */
#include "test-tar.h"

#include "tar/acl.h"
#include "tar/convert.h"
#include "tar/default_acls.h"
#include "tar/scan.h"

/* Converts into out, asking for at most `piece` bytes at a time (0: random). */
static int convert_fd(int fd, const char *prefix, enum tar_convert_use use, size_t piece,
                      struct buf *out, struct fail *why)
{
    struct tar_convert *convert cleanup_tar_convert = NULL;
    buf_init(out, BYTES_MAX);
    int r = tar_convert_open(fd, prefix, use, &convert, why);
    if (r < 0)
        return r;
    for (;;) {
        size_t max = piece ? piece : 1 + (size_t)random() % 5000;
        cleanup_free char *bytes = malloc(max);
        ssize_t n = tar_convert_read(convert, bytes, max, why);
        if (n <= 0) { /* and so it stays */
            assert_int_equal(tar_convert_read(convert, bytes, max, NULL), n);
            return (int)n;
        }
        assert_true((size_t)n <= max);
        assert_int_equal(buf_add(out, bytes, (size_t)n), 0);
    }
}

static void convert_path(const char *path, const char *prefix, struct buf *out)
{
    struct fail why = FAIL_INIT;
    int fd cleanup_close = open(path, O_RDONLY | O_CLOEXEC);
    int r = convert_fd(fd, prefix, TAR_CONVERT_TO_UNPACK, 65536, out, &why);
    if (r < 0)
        fail_msg("%s: %s", path, why.text);
}

static void assert_whole(const struct buf *archive)
{
    struct fail why = FAIL_INIT;
    struct tar_scan *scan cleanup_tar_scan = tar_scan_new(NULL, NULL);
    assert_int_equal(tar_scan_push(scan, archive->data, archive->len, &why), 0);
    assert_int_equal(tar_scan_finish(scan, &why), 0);
}

static const char tree_py[] =
    "import os\n"
    "def put(path, data=b'', mode=0o644, mtime=1000000000123456789):\n"
    "    os.makedirs(os.path.dirname(path), exist_ok=True)\n"
    "    open(path, 'wb').write(data)\n"
    "    os.chown(path, 3000000 if os.geteuid() == 0 else -1, -1)\n"
    "    os.chmod(path, mode)\n"
    "    os.utime(path, ns=(mtime, mtime))\n"
    "put(b'tree/a', b'a' * 511, 0o4755)\n"
    "put(b'tree/dir/b', b'b' * 512)\n"
    "put(b'tree/dir/big', os.urandom(500001), 0o600)\n"
    "put(b'tree/dir/old', b'x', mtime=-1250000000)\n"
    "put(b'tree/\\xff\\xfe', b'invalid utf-8')\n"
    "put(b'tree/e\\xcc\\x81' + b'x' * 140, b'decomposed')\n"
    "put(b'tree/\\xc3\\xa9' + b'x' * 140, b'composed')\n"
    "put(b'tree/' + b'\\xff' * 255, b'long')\n"
    "put(b'tree/' + b'/'.join([b'n' * 200] * 9) + b'/new\\nline', b'deep')\n"
    "os.symlink(b'x' * 300, 'tree/link')\n"
    "os.mkfifo('tree/fifo')\n"
    "os.link('tree/a', 'tree/dir/hard')\n"
    "os.link('tree/link', 'tree/dir/hard-link')\n"
    "with open('tree/sparse', 'wb') as f:\n"
    "    f.truncate(3 << 20)\n"
    "    for i in range(40): f.seek(i * 70000); f.write(bytes([i + 1]) * 4096)\n"
    "with open('tree/hollow', 'wb') as f: f.truncate(1234567)\n"
    "os.utime('tree', ns=(5, 1000000000000000005))\n"
    "os.chmod('tree', 0o2750)\n";

/* Prints what is in a tree, hard links as numbers of names. */
static const char show_py[] =
    "import os, stat, sys, zlib\n"
    "root = os.fsencode(sys.argv[1])\n"
    "def line(path):\n"
    "    st = os.lstat(path)\n"
    "    reg, link = stat.S_ISREG(st.st_mode), stat.S_ISLNK(st.st_mode)\n"
    "    print(os.path.relpath(path, root).hex(), oct(st.st_mode), st.st_uid, st.st_gid,\n"
    "          st.st_mtime_ns, 0 if stat.S_ISDIR(st.st_mode) else st.st_nlink,\n"
    "          st.st_size if reg else 0, zlib.crc32(open(path, 'rb').read()) if reg else 0,\n"
    "          os.readlink(path).hex() if link else '')\n"
    "line(root)\n"
    "for at, dirs, files in os.walk(root):\n"
    "    for name in dirs + files: line(os.path.join(at, name))\n";

static int make_tree(void **state)
{
    if (enter_tar_test_dir(state) < 0)
        return -1;
    spill("tree.py", tree_py, strlen(tree_py));
    spill("show.py", show_py, strlen(show_py));
    shell("python3 tree.py");
    return 0;
}

/* Unpacked by GNU tar, the converted archive gives what the original does, below the prefix. */
static void compare_unpacked(const char *archive)
{
    struct buf converted cleanup_buf;
    convert_path(archive, "vol/", &converted);
    assert_whole(&converted);
    spill("converted.tar", converted.data, converted.len);
    shell("rm -rf o c && mkdir o c c/vol && tar --warning=none -pxf %s -C o && "
          "tar --warning=none -pxf converted.tar -C c && test $(ls c | wc -l) = 1",
          archive);
    shell("python3 show.py o | sort > o.txt && python3 show.py c/vol | sort > c.txt");
    struct buf wanted cleanup_buf;
    struct buf got cleanup_buf;
    slurp("o.txt", &wanted);
    slurp("c.txt", &got);
    assert_true(wanted.len > 1000);
    assert_same_lines(&got, &wanted);
}

static void test_unpacks_the_same(unused_arg void **state)
{
    static const char *const commands[] = {
        "tar --format=gnu -C tree -cf t.tar .",
        "tar --format=gnu -S -C tree -cf t.tar .",
        "tar --format=oldgnu -S -C tree -cf t.tar .",
        "tar --format=pax -C tree -cf t.tar .",
        "tar --format=pax -S --sparse-version=0.0 -C tree -cf t.tar .",
        "tar --format=pax -S --sparse-version=0.1 -C tree -cf t.tar .",
        "tar --format=pax -S --sparse-version=1.0 -C tree -cf t.tar .",
        "tar --format=pax -S -C tree -cf - . | gzip > t.tar",
        "tar --format=pax -S -C tree -cf - . | bzip2 > t.tar",
        "tar --format=pax -S -C tree -cf - . | xz -0 > t.tar",
        "tar --format=pax -S -C tree -cf - . | zstd > t.tar",
    };
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        print_message("%s\n", commands[i]);
        shell("%s", commands[i]);
        compare_unpacked("t.tar");
    }
}

static void test_pieces_of_any_length(unused_arg void **state)
{
    static const size_t pieces[] = {1, 7, 511, 512, 513, 1000000, 100000000, 0, 0, 0};
    struct buf wanted cleanup_buf;
    shell("tar --format=pax -S -C tree -cf t.tar sparse dir fifo link");
    convert_path("t.tar", "p/", &wanted);
    for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
        struct buf got cleanup_buf;
        int fd cleanup_close = open("t.tar", O_RDONLY | O_CLOEXEC);
        assert_int_equal(convert_fd(fd, "p/", TAR_CONVERT_TO_UNPACK, pieces[i], &got, NULL), 0);
        assert_int_equal(got.len, wanted.len);
        assert_memory_equal(got.data, wanted.data, got.len);
    }
}

/* Converted once, there is nothing more to convert. */
static void test_idempotent(unused_arg void **state)
{
    struct buf once cleanup_buf;
    struct buf twice cleanup_buf;
    shell("tar --format=gnu -S -C tree -cf t.tar .");
    convert_path("t.tar", "", &once);
    spill("once.tar", once.data, once.len);
    convert_path("once.tar", "", &twice);
    assert_int_equal(once.len, twice.len);
    assert_memory_equal(once.data, twice.data, once.len);
    assert_string_equal(once.data, "./");
}

static void test_prefix(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    struct buf converted cleanup_buf;
    struct buf listing cleanup_buf;
    buf_init(&archive, BYTES_MAX);
    buf_init(&listing, LISTING_MAX);
    add_simple(&archive, "", S_IFDIR | 0750, NULL);
    add_simple(&archive, "a", S_IFREG | 0644, "text");
    add_hard_link(&archive, "h", "./a");
    add_simple(&archive, "l", S_IFLNK | 0777, "a");
    add_end(&archive);
    int fd cleanup_close = open_bytes(archive.data, archive.len);
    assert_int_equal(convert_fd(fd, "vol/", TAR_CONVERT_TO_UNPACK, 100, &converted, NULL), 0);
    assert_string_equal(converted.data, "vol/");
    assert_int_equal(list_bytes(converted.data, converted.len, &listing, NULL), 0);
    static const char *const lines[] = {"766f6c 40750 ",       "766f6c2f61 100644 ",
                                        "766f6c2f68 100644H ", " 766f6c2f61\n",
                                        "766f6c2f6c 120777 ",  " 61\n"};
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
        assert_non_null(strstr(buf_string(&listing), lines[i]));
}

/* Attributes and ACLs arrive as the attributes the engine sets, and ACLs as text too. */
static void test_attributes(unused_arg void **state)
{
    shell("python3 -c \"import tarfile\n"
          "t = tarfile.open('x.tar', 'w', format=tarfile.PAX_FORMAT)\n"
          "m = tarfile.TarInfo('f'); m.pax_headers = {'SCHILY.xattr.user.a': 'v',\n"
          "  'SCHILY.acl.access': 'user::rw-,user:1:r--,group::r--,mask::r--,other::---'}\n"
          "t.addfile(m); t.close()\"");
    struct buf converted cleanup_buf;
    convert_path("x.tar", "", &converted);
    spill("converted.tar", converted.data, converted.len);
    shell("python3 -c \"import tarfile\n"
          "h = tarfile.open('converted.tar', errors='surrogateescape').next().pax_headers\n"
          "assert h['SCHILY.xattr.user.a'] == 'v', h\n"
          "assert len(h['SCHILY.xattr.system.posix_acl_access']) == 4 + 5 * 8, h\n"
          "assert h['SCHILY.acl.access'].startswith('user::rw-,user:1:r--'), h\"");
}

/* Each stands behind the one before. */
static void assert_in_order(struct buf *listing, const char *const *lines, size_t count)
{
    const char *at = buf_string(listing);
    for (size_t i = 0; i < count; i++) {
        const char *found = strstr(at, lines[i]);
        if (!found)
            fail_msg("no %s, or not there, in\n%s", lines[i], buf_string(listing));
        at = found + 1;
    }
}

/* A directory's default ACL is set last, unless it is no directory by then. */
static void test_default_acls(unused_arg void **state)
{
#define DEFAULT "'SCHILY.acl.default': 'user::rwx,user:1:rwx,group::r-x,mask::rwx,other::---'"
    shell("python3 -c \"import tarfile\n"
          "t = tarfile.open('x.tar', 'w', format=tarfile.PAX_FORMAT)\n"
          "def add(name, type, **headers):\n"
          "  m = tarfile.TarInfo(name); m.type = type; m.pax_headers = headers; t.addfile(m)\n"
          "add('./', b'5', **{" DEFAULT "})\n"
          "add('b', b'5', **{" DEFAULT ", 'SCHILY.xattr.user.a': 'v'})\n"
          "add('b/f', b'0')\n"
          "add('c', b'5', **{" DEFAULT "})\n"
          "add('d', b'5')\n"
          "add('c', b'0')\n"
          "m = tarfile.TarInfo('b'); m.type = b'5'; m.uid = 7; m.mode = 0o700\n"
          "m.pax_headers = {'SCHILY.xattr.com.apple.x': 'v'}; t.addfile(m)\n"
          "t.close()\"");
    struct buf converted cleanup_buf;
    struct buf listing cleanup_buf;
    convert_path("x.tar", "v/", &converted);
    buf_init(&listing, LISTING_MAX);
    assert_int_equal(list_bytes(converted.data, converted.len, &listing, NULL), 0);
    /* names in hexadecimal; an ACL begins with its version and the owner's entry */
#define NONE "system.posix_acl_default=02000000\n"
#define SOME "system.posix_acl_default=0200000001000700"
    static const char *const lines[] = {
        "76 40644 ",
        NONE,
        "762f62 40644 ",
        "=02000000 user.a=76\n",
        "762f622f66 100644",
        "762f63 40644 ",
        NONE,
        "762f64 40644 ",
        "762f63 100644 ",
        "\n76 40644 ",
        SOME,
        "\n762f62 40700 7:0 ",
        SOME,
    };
    assert_in_order(&listing, lines, sizeof(lines) / sizeof(lines[0]));
    size_t count = 0;
    for (const char *at = buf_string(&listing); (at = strchr(at, '\n')); at++)
        count++;
    assert_int_equal(count, 9);
    assert_null(strstr(buf_string(&listing), "com.apple"));
    int fd cleanup_close = open("x.tar", O_RDONLY | O_CLOEXEC);
    struct buf to_keep cleanup_buf;
    assert_int_equal(convert_fd(fd, "v/", TAR_CONVERT_TO_KEEP, 0, &to_keep, NULL), 0);
    buf_clear(&listing);
    assert_int_equal(list_bytes(to_keep.data, to_keep.len, &listing, NULL), 0);
    static const char *const kept[] = {"76 40644 ",       SOME, "\n762f62 40644 ", SOME,
                                       "\n762f63 40644 ", SOME, "762f63 100644 "};
    assert_in_order(&listing, kept, sizeof(kept) / sizeof(kept[0]));
    assert_null(strstr(buf_string(&listing), NONE));
}

/* Whatever an archive says, the memory for it is bounded. */
static void test_default_acls_are_bounded(unused_arg void **state)
{
    static char acl[60000];
    struct default_acls *acls cleanup_default_acls = default_acls_new();
    size_t most = DEFAULT_ACLS_MAX_BYTES / sizeof(acl) + 1;
    int r = 0;
    size_t i;
    assert_non_null(acls);
    for (i = 0; r == 0 && i < most; i++) {
        struct tar_entry entry cleanup_tar_entry = {.mode = S_IFDIR | 0755};
        char name[32];
        (void)snprintf(name, sizeof(name), "d%zu", i);
        assert_non_null(entry.name = strdup(name));
        memcpy(acl, &i, sizeof(i));
        assert_int_equal(tar_entry_add_xattr(&entry, TAR_ACL_DEFAULT, acl, sizeof(acl)), 0);
        r = default_acls_put_off(acls, &entry);
    }
    assert_int_equal(r, -E2BIG);
    assert_true(i > most / 2);
}

/* Large files with holes: the zeros are made as they are asked for. */
static void test_large_hole(unused_arg void **state)
{
    shell("truncate -s 9G huge && echo end >> huge && tar -S --format=gnu -cf huge.tar huge && "
          "rm huge");
    int fd cleanup_close = open("huge.tar", O_RDONLY | O_CLOEXEC);
    struct tar_convert *convert cleanup_tar_convert = NULL;
    assert_int_equal(tar_convert_open(fd, "", TAR_CONVERT_TO_UNPACK, &convert, NULL), 0);
    static char bytes[1 << 20];
    uint64_t total = 0;
    ssize_t n;
    while ((n = tar_convert_read(convert, bytes, sizeof(bytes), NULL)) > 0)
        total += (uint64_t)n;
    assert_int_equal(n, 0);
    uint64_t size = (UINT64_C(9) << 30) + 4;
    assert_int_equal(total, 3 * 512 + size + tar_padding_bytes(size) + TAR_END_BYTES);
}

static void test_damage(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    buf_init(&archive, BYTES_MAX);
    add_simple(&archive, "a", S_IFREG | 0644, "text");
    add_simple(&archive, "b", S_IFREG | 0644, "text");
    add_end(&archive);
    for (size_t len = 0; len < archive.len; len += 32) {
        struct buf out cleanup_buf;
        struct fail why = FAIL_INIT;
        int fd cleanup_close = open_bytes(archive.data, len);
        assert_int_equal(convert_fd(fd, "", TAR_CONVERT_TO_UNPACK, 4096, &out, &why), -EILSEQ);
        assert_true(why.text[0] != '\0');
    }
    archive.data[156] = 'M';
    fix_checksum(archive.data);
    struct buf out cleanup_buf;
    struct fail why = FAIL_INIT;
    int fd cleanup_close = open_bytes(archive.data, archive.len);
    assert_int_equal(convert_fd(fd, "", TAR_CONVERT_TO_UNPACK, 4096, &out, &why), -EINVAL);
    assert_non_null(strstr(why.text, "a: "));
}

static void test_no_members(unused_arg void **state)
{
    static const char zeros[10240];
    struct buf out cleanup_buf;
    int fd cleanup_close = open_bytes(zeros, sizeof(zeros));
    assert_int_equal(convert_fd(fd, "", TAR_CONVERT_TO_UNPACK, 4096, &out, NULL), 0);
    assert_int_equal(out.len, TAR_END_BYTES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unpacks_the_same),
        cmocka_unit_test(test_pieces_of_any_length),
        cmocka_unit_test(test_idempotent),
        cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_attributes),
        cmocka_unit_test(test_default_acls),
        cmocka_unit_test(test_default_acls_are_bounded),
        cmocka_unit_test(test_large_hole),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_no_members),
    };
    return cmocka_run_group_tests(tests, make_tree, leave_test_dir);
}
