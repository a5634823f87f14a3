/* SPDX-License-Identifier: MIT */
#include "test-tar.h"

#include <sys/xattr.h>

/* ---- trees on disk, and what is in them according to Python ---- */

/* Prints a tree as the listings of test-tar.h do; argv: tree, digits of mtime's fraction. */
static const char list_py[] =
    "import os, stat, sys, zlib\n"
    "root, digits = os.fsencode(sys.argv[1]), int(sys.argv[2])\n"
    "def line(path):\n"
    "    st = os.lstat(path)\n"
    "    name = os.path.relpath(path, root)\n"
    "    name = b'' if name == b'.' else name\n"
    "    ns = st.st_mtime_ns // 10 ** (9 - digits) * 10 ** (9 - digits)\n"
    "    reg, link = stat.S_ISREG(st.st_mode), stat.S_ISLNK(st.st_mode)\n"
    "    crc = zlib.crc32(open(path, 'rb').read()) if reg else 0\n"
    "    mode = st.st_mode\n"
    "    print('%s %o %d:%d %d.%09d %d %08x 0,0 %s' % (name.hex(), mode, st.st_uid, st.st_gid,\n"
    "          ns // 10 ** 9, ns % 10 ** 9, st.st_size if reg else 0, crc,\n"
    "          os.readlink(path).hex() if link else ''))\n"
    "line(root)\n"
    "for at, dirs, files in os.walk(root):\n"
    "    for name in dirs + files: line(os.path.join(at, name))\n";

static const char trees_py[] =
    "import os\n"
    "def put(path, data=b'', mode=0o644, mtime=1000000000123456789):\n"
    "    os.makedirs(os.path.dirname(path), exist_ok=True)\n"
    "    open(path, 'wb').write(data)\n"
    "    os.chmod(path, mode)\n"
    "    os.utime(path, ns=(mtime, mtime))\n"
    "put(b'plain/a', b'a' * 511)\n"
    "put(b'plain/b', b'b' * 512, 0o4755)\n"
    "put(b'plain/dir/c', b'c' * 513, 0o600)\n"
    "put(b'plain/dir/deeper/big', os.urandom(300000))\n"
    "put(b'plain/dir/empty')\n"
    "os.mkdir('plain/hollow', 0o700)\n"
    "os.chmod('plain/hollow', 0o3770)\n"
    "os.symlink('../nowhere/', 'plain/dir/symlink')\n"
    "os.symlink('a', 'plain/symlink')\n"
    "os.mkfifo('plain/fifo')\n"
    "put(b'plain/old', b'old', mtime=0)\n"
    "put(b'hostile/\\xff\\xfe\\x80', b'invalid utf-8')\n"
    "put(b'hostile/e\\xcc\\x81' + b'x' * 120, b'decomposed')\n"
    "put(b'hostile/\\xc3\\xa9' + b'x' * 120, b'composed')\n"
    "put(b'hostile/e\\xcc\\x81', b'short decomposed')\n"
    "put(b'hostile/\\xe2\\x84\\xaa', b'kelvin')\n"
    "put(b'hostile/new\\nline \\t\\x01 = \\\\ %41', b'control')\n"
    "put(b'hostile/' + b'\\xff' * 255, b'long invalid')\n"
    "put(b'cesu/' + b'\\xed\\xa0\\x80\\xed\\xb0\\x80' * 30, b'surrogates')\n"
    "put(b'hostile/' + b'\\xf0\\x9f\\x92\\xa9' * 60, b'astral')\n"
    "put(b'hostile/' + b'/'.join([b'n' * 200] * 12) + b'/leaf', b'deep')\n"
    "put(b'hostile/' + b'/'.join([b'e\\xcc\\x81' * 50] * 5) + b'/leaf', b'deep decomposed')\n"
    "put(b'hostile/-rf', b'option')\n"
    "put(b'hostile/... ', b'dots')\n"
    "os.symlink(b'e\\xcc\\x81' + b'\\xcc\\x81' * 100, b'hostile/long link')\n"
    "os.symlink(b'\\xff' * 200, b'hostile/invalid link')\n"
    "os.symlink(b'e\\xcc\\x81', b'hostile/link')\n"
    "put(b'simple/d/f', b'f' * 1000)\n"
    "os.symlink('d/f', 'simple/l')\n"
    "put(b'future/ns', b'x', mtime=9999999999000000001)\n"
    "put(b'future/before', b'x', mtime=-1250000000)\n"
    "put(b'future/before2', b'x', mtime=-86400000000000)\n"
    "put(b'future/at0', b'x', mtime=1)\n";

static int make_trees(void **state)
{
    if (enter_tar_test_dir(state) < 0)
        return -1;
    spill("list.py", list_py, strlen(list_py));
    spill("trees.py", trees_py, strlen(trees_py));
    shell("python3 trees.py");
    return 0;
}

/* The archive must list as the tree does; `ignored` says which mtime digits count. */
static void compare_with_tree(const char *archive, const char *tree, int digits)
{
    struct buf listing cleanup_buf;
    struct buf wanted cleanup_buf;
    struct fail why = FAIL_INIT;
    buf_init(&listing, LISTING_MAX);
    int r = list_path(archive, &listing, &why);
    if (r < 0)
        fail_msg("%s: %s", archive, fail_text(&why, r));
    shell("python3 list.py %s %d > tree.txt", tree, digits);
    slurp("tree.txt", &wanted);
    sort_lines(&wanted);
    sort_lines(&listing);
    assert_same_lines(&listing, &wanted);
}

/* Whole seconds: Python's mtime is a double. */
#define PYTHON_TAR(format)                                                                         \
    "python3 -c \"import tarfile\n"                                                                \
    "def whole(m): m.mtime = int(m.mtime); return m\n"                                             \
    "with tarfile.open('%2$s', 'w', format=tarfile." format                                        \
    ", encoding='utf-8', errors='surrogateescape') as t:\n"                                        \
    "  t.add('%1$s', '.', filter=whole)\""

/* %1$s: tree, %2$s: archive */
static const struct writer {
    const char *name;
    const char *command;
    const char *trees; /* that the format can hold */
    int digits;        /* of mtime's fraction */
} writers[] = {
    {"gnu", "tar --format=gnu -C %1$s -cf %2$s .", "plain hostile cesu", 0},
    {"oldgnu", "tar --format=oldgnu -C %1$s -cf %2$s .", "plain hostile", 0},
    {"pax", "tar --format=pax -C %1$s -cf %2$s .", "plain hostile cesu future", 9},
    {"v7", "tar --format=v7 -C %1$s -cf %2$s .", "simple", 0},
    {"bsd-v7", "bsdtar --format=v7tar -C %1$s -cf %2$s .", "simple", 0},
    {"ustar", "tar --format=ustar -C %1$s -cf %2$s .", "plain", 0},
    {"python-ustar", PYTHON_TAR("USTAR_FORMAT"), "plain", 0},
    {"bsd-pax", "bsdtar --format=pax -C %1$s -cf %2$s .", "plain hostile", 9},
    {"bsd-pax-c", "LC_ALL=C bsdtar --format=pax -C %1$s -cf %2$s .", "plain hostile", 9},
    {"bsd-ustar", "bsdtar --format=ustar -C %1$s -cf %2$s .", "plain", 0},
    {"bsd-gnu", "bsdtar --format=gnutar -C %1$s -cf %2$s .", "plain hostile", 0},
    {"python-pax", PYTHON_TAR("PAX_FORMAT"), "plain hostile", 0},
    {"python-gnu", PYTHON_TAR("GNU_FORMAT"), "plain hostile", 0},
    {"busybox", "busybox tar -C %1$s -cf %2$s .", "plain", 0},
};

static void test_dialects(unused_arg void **state)
{
    for (size_t i = 0; i < sizeof(writers) / sizeof(writers[0]); i++) {
        char trees[64];
        (void)snprintf(trees, sizeof(trees), "%s", writers[i].trees);
        for (char *tree = strtok(trees, " "); tree; tree = strtok(NULL, " ")) {
            char archive[64];
            (void)snprintf(archive, sizeof(archive), "%s-%s.tar", writers[i].name, tree);
            char *command = NULL;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
            assert_true(asprintf(&command, writers[i].command, tree, archive) > 0);
#pragma GCC diagnostic pop
            shell("%s", command);
            free(command);
            print_message("%s\n", archive);
            compare_with_tree(archive, tree, writers[i].digits);
        }
    }
}

/* ---- small archives by hand ---- */

#define TEXT "some text of no meaning, but a little longer than nothing at all"

static void make_small(struct buf *archive)
{
    buf_init(archive, BYTES_MAX);
    add_simple(archive, "", S_IFDIR | 0755, NULL);
    add_simple(archive, "dir", S_IFDIR | 0700, NULL);
    struct tar_entry entry = {.name = STR("dir/file"), .mode = S_IFREG | 0640, .mtime_ns = 5};
    entry.size_bytes = strlen(TEXT);
    add_member(archive, &entry, TEXT);
    add_simple(archive, "link", S_IFLNK | 0777, "dir/file");
    add_simple(archive, "last", S_IFREG | 0644, TEXT TEXT);
}

static int list_result(const void *bytes, size_t len)
{
    struct buf listing cleanup_buf;
    struct fail why = FAIL_INIT;
    buf_init(&listing, LISTING_MAX);
    int r = list_bytes(bytes, len, &listing, &why);
    if (r < 0)
        assert_true(why.text[0] != '\0');
    return r;
}

static void assert_refused(const void *bytes, size_t len)
{
    assert_int_equal(list_result(bytes, len), -EILSEQ);
}

static void test_end_blocks(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    make_small(&archive);
    assert_refused(archive.data, archive.len); /* none */
    assert_int_equal(buf_add_zeros(&archive, TAR_BLOCK_BYTES), 0);
    assert_refused(archive.data, archive.len); /* one */
    assert_int_equal(buf_add_zeros(&archive, TAR_BLOCK_BYTES - 1), 0);
    assert_refused(archive.data, archive.len); /* not quite two */
    for (size_t more = 1; more < 1000000; more = more * 3 + 1) {
        assert_int_equal(buf_add_zeros(&archive, more), 0);
        assert_int_equal(list_result(archive.data, archive.len), 0);
    }
    assert_int_equal(buf_add(&archive, "x", 1), 0);
    assert_refused(archive.data, archive.len);
    assert_int_equal(buf_add_zeros(&archive, 1000), 0);
    assert_refused(archive.data, archive.len);
}

/* What tar(1) would silently stop before. */
static void test_something_after_the_end(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    struct buf twice cleanup_buf;
    make_small(&archive);
    size_t members = archive.len;
    buf_init(&twice, BYTES_MAX);
    add_end(&archive);
    assert_int_equal(buf_add(&twice, archive.data, archive.len), 0);
    assert_int_equal(buf_add(&twice, archive.data, archive.len), 0);
    assert_refused(twice.data, twice.len); /* cat a.tar b.tar */
    buf_clear(&twice);
    assert_int_equal(buf_add(&twice, archive.data, members + TAR_BLOCK_BYTES), 0);
    assert_int_equal(buf_add(&twice, archive.data, archive.len), 0);
    assert_refused(twice.data, twice.len); /* a lone block of zeros in the middle */
    buf_clear(&twice);
    assert_int_equal(buf_add_zeros(&twice, TAR_BLOCK_BYTES), 0);
    assert_int_equal(buf_add(&twice, archive.data, archive.len), 0);
    assert_refused(twice.data, twice.len); /* and at the beginning */
}

static void test_only_zeros_is_an_archive_without_members(unused_arg void **state)
{
    static const char zeros[10240];
    assert_int_equal(list_result(zeros, 10240), 0);
    assert_int_equal(list_result(zeros, 1024), 0);
    assert_refused(zeros, 1023);
    assert_refused(zeros, 512);
    assert_refused(zeros, 511);
    assert_refused(zeros, 0);
}

static void test_not_an_archive(unused_arg void **state)
{
    shell("mkdir -p other && cp list.py other/text && head -c 5000 /dev/urandom > other/random");
    shell("printf x > other/byte; : > other/empty; head -c 3 other/random > other/three");
    shell("bsdtar -C plain --format=zip -cf other/zip . 2>/dev/null");
    shell("bsdtar -C simple --format=newc -cf other/cpio . && bsdtar -C simple --format=7zip -cf "
          "other/7z .");
    shell(
        "bsdtar -C simple --format=iso9660 -cf other/iso . && bsdtar -C simple --format=mtree -cf "
        "other/mtree .");
    shell("for f in lz4 lzma lzip compress uuencode b64encode; do"
          "  bsdtar --$f -C simple -cf other/$f . 2> /dev/null; done");
    shell("for f in gzip bzip2 xz zstd; do $f -c < list.py > other/text-$f;"
          "  $f -c < other/empty > other/empty-$f; $f -c < other/three > other/three-$f;"
          "  tar -cf - simple | $f -c | $f -c > other/twice-$f; done");
    shell("printf '\\037\\213' > other/gz2; printf BZh9 > other/bz4; "
          "printf '\\050\\265\\057\\375' > other/zst4; printf '\\3757zXZ\\0' > other/xz6;"
          "printf '\\120\\052\\115\\030\\4\\0\\0\\0abcd' > other/only-skippable");
    shell("ls -d other/* > other.txt");
    struct buf names cleanup_buf;
    slurp("other.txt", &names);
    char *rest = names.data;
    for (char *name = strsep(&rest, "\n"); name && *name; name = strsep(&rest, "\n")) {
        struct buf bytes cleanup_buf;
        slurp(name, &bytes);
        print_message("%s %zu\n", name, bytes.len);
        assert_refused(bytes.data, bytes.len);
    }
}

/* ---- compression ---- */

static const char *const compressors[] = {"cat", "gzip", "bzip2", "xz", "zstd", "zstd --no-check"};
#define COMPRESSORS (sizeof(compressors) / sizeof(compressors[0]))

static void pack(const struct buf *archive, const char *command, struct buf *out)
{
    spill("plain.tar", archive->data, archive->len);
    shell("%s < plain.tar > packed", command);
    slurp("packed", out);
}

static void test_compressed(unused_arg void **state)
{
    for (size_t i = 0; i < COMPRESSORS; i++) {
        shell("tar --format=pax -C plain -cf - . | %s > packed", compressors[i]);
        compare_with_tree("packed", "plain", 9);
    }
}

/* Each row: a shell command that makes `packed` of plain.tar cut into p1 and p2. */
static void test_concatenated(unused_arg void **state)
{
    static const char *const accepted[] = {
        "(gzip < p1; gzip < p2) > packed",
        "(gzip < p1; : | gzip; gzip -n < p2; : | gzip) > packed",
        "(gzip < p1; gzip < p2; head -c 5000 /dev/zero) > packed",
        "(bzip2 < p1; bzip2 < p2) > packed",
        "(bzip2 < p1; : | bzip2; bzip2 < p2; head -c 5000 /dev/zero) > packed",
        "(xz < p1; xz < p2) > packed",
        "(xz < p1; head -c 8 /dev/zero; xz < p2; head -c 4 /dev/zero) > packed",
        "(zstd < p1; zstd < p2) > packed",
        "(zstd < p1; : | zstd; zstd -1 --no-check < p2; : | zstd) > packed",
        "(cat skip; zstd < p1; cat skip; zstd < p2; cat skip) > packed",
    };
    static const char *const refused[] = {
        "(gzip < p1; gzip < p2; echo) > packed",
        "(gzip < p1; gzip < p2; head -c 5000 /dev/zero; echo) > packed",
        "(gzip < p1; bzip2 < p2) > packed",
        "(gzip < p1; cat p2) > packed",
        "(bzip2 < p1; bzip2 < p2; echo) > packed",
        "(bzip2 < p1; bzip2 < p2; printf BZh9) > packed",
        "(bzip2 < p1; bzip2 < p2; bzip2 < p2 | head -c 13) > packed",
        "(bzip2 < p1; bzip2 < p2; bzip2 < p2 | head -c 40) > packed",
        "(xz < p1; xz < p2; echo) > packed",
        "(xz < p1; xz < p2; xz < p2 | head -c 20) > packed",
        "(zstd < p1; zstd < p2; echo) > packed",
        "(zstd < p1; zstd < p2; head -c 6 skip) > packed",
        "(zstd < p1; zstd < p2; head -c 10 skip) > packed",
        "(gzip < p1; gzip < p2; gzip < p2) > packed",
        "zstd < p1 > packed",
    };
    shell("tar --format=pax -C plain -cf plain.tar . && split -n 2 plain.tar p && mv paa p1 && "
          "mv pab p2 && printf '\\122\\052\\115\\030\\004\\0\\0\\0abcd' > skip");
    for (size_t i = 0; i < sizeof(accepted) / sizeof(accepted[0]); i++) {
        shell("%s", accepted[i]);
        compare_with_tree("packed", "plain", 9);
    }
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        struct buf bytes cleanup_buf;
        shell("%s", refused[i]);
        slurp("packed", &bytes);
        print_message("%s\n", refused[i]);
        assert_refused(bytes.data, bytes.len);
    }
}

/* Cut at every byte: always refused, for nothing after the end is needless here. */
static void test_cut_anywhere(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    make_small(&archive);
    add_end(&archive);
    for (size_t i = 0; i < COMPRESSORS; i++) {
        struct buf packed cleanup_buf;
        pack(&archive, compressors[i], &packed);
        assert_int_equal(list_result(packed.data, packed.len), 0);
        for (size_t len = 0; len < packed.len; len++)
            assert_refused(packed.data, len);
    }
}

/* Padded as tar(1) does, it may lose padding. */
static void test_cut_after_the_end(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    make_small(&archive);
    add_end(&archive);
    size_t end = archive.len;
    assert_int_equal(buf_add_zeros(&archive, 3000), 0);
    for (size_t len = end - 600; len < archive.len; len++)
        assert_int_equal(list_result(archive.data, len), len < end ? -EILSEQ : 0);
}

/* One byte changed: refused, or nothing of what counts has changed.  Returns the refusals. */
static size_t flip(struct buf *packed, const struct buf *wanted, size_t at, unsigned char bits)
{
    struct buf listing cleanup_buf;
    struct fail why = FAIL_INIT;
    buf_init(&listing, LISTING_MAX);
    packed->data[at] ^= (char)bits;
    int r = list_bytes(packed->data, packed->len, &listing, &why);
    packed->data[at] ^= (char)bits;
    if (r == 0 && strcmp(buf_string(&listing), buf_string(wanted)) != 0)
        fail_msg("byte %zu ^ %x: accepted, and something else", at, bits);
    assert_true(r == 0 || r == -EILSEQ);
    return r < 0;
}

static void test_flipped_bytes_compressed(unused_arg void **state)
{
    static const unsigned char bits[] = {0x01, 0x80, 0x20, 0xff};
    struct buf archive cleanup_buf;
    struct buf wanted cleanup_buf;
    make_small(&archive);
    add_end(&archive);
    buf_init(&wanted, LISTING_MAX);
    assert_int_equal(list_bytes(archive.data, archive.len, &wanted, NULL), 0);
    for (size_t i = 1; i < COMPRESSORS - 1; i++) {
        struct buf packed cleanup_buf;
        pack(&archive, compressors[i], &packed);
        size_t refused = 0;
        for (size_t at = 0; at < packed.len; at++)
            for (size_t k = 0; k < sizeof(bits); k++)
                refused += flip(&packed, &wanted, at, bits[k]);
        print_message("%s: %zu of %zu refused\n", compressors[i], refused, packed.len * 4);
        assert_true(refused > packed.len * 4 * 8 / 10);
    }
}

/* A plain header has its checksum; a block with one and the same sum is beyond it. */
static void test_flipped_bytes_plain(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    struct buf wanted cleanup_buf;
    make_small(&archive);
    add_end(&archive);
    buf_init(&wanted, LISTING_MAX);
    assert_int_equal(list_bytes(archive.data, archive.len, &wanted, NULL), 0);
    for (size_t at = 0; at < 2 * TAR_BLOCK_BYTES; at++)
        for (unsigned bit = 0; bit < 8; bit++) {
            bool in_checksum = at % TAR_BLOCK_BYTES >= 148 && at % TAR_BLOCK_BYTES < 156;
            size_t refused = flip(&archive, &wanted, at, (unsigned char)(1U << bit));
            assert_true(refused || in_checksum); /* there ' ' and NUL are the same */
        }
}

/* ---- sparse members ---- */

static const char sparse_py[] =
    "import os\n"
    "def put(name, size, runs):\n"
    "    with open(name, 'wb') as f:\n"
    "        f.truncate(size)\n"
    "        for offset, data in runs: f.seek(offset); f.write(data)\n"
    "    os.utime(name, (10 ** 9, 10 ** 9))\n"
    "os.mkdir('sparse')\n"
    "M = 1 << 20\n"
    "put('sparse/begin', 3 * M, [(3 * M - 4096, b'e' * 4096)])\n"
    "put('sparse/end', 3 * M + 5, [(0, b'b' * 4096)])\n"
    "put('sparse/middle', 3 * M + 5, [(0, b'b' * 100), (2 * M, b'm' * 5000), (3 * M, b'e' * 5)])\n"
    "put('sparse/none', M, [(0, b'x' * M)])\n"
    "put('sparse/nothing', 5 * M, [])\n"
    "put('sparse/many', 20 * M, [(i * 65536, bytes([i % 255 + 1]) * 4096) for i in range(300)])\n"
    "put('sparse/zero', 0, [])\n";

static void test_sparse(unused_arg void **state)
{
    static const char *const commands[] = {
        "tar --format=gnu -S -C sparse -cf sparse.tar .",
        "tar --format=oldgnu -S -C sparse -cf sparse.tar .",
        "tar --format=pax --sparse-version=0.0 -S -C sparse -cf sparse.tar .",
        "tar --format=pax --sparse-version=0.1 -S -C sparse -cf sparse.tar .",
        "tar --format=pax --sparse-version=1.0 -S -C sparse -cf sparse.tar .",
        "bsdtar --format=pax --read-sparse -C sparse -cf sparse.tar .",
    };
    spill("sparse.py", sparse_py, strlen(sparse_py));
    shell("python3 sparse.py && touch -d @1000000000 sparse");
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        shell("%s", commands[i]);
        print_message("%s\n", commands[i]);
        compare_with_tree("sparse.tar", "sparse", 9);
    }
}

/* The extents are as they were on disk, and data comes from within them. */
static void test_extents(unused_arg void **state)
{
    shell("tar --format=gnu -S -C sparse -cf sparse.tar many middle nothing none end");
    int fd cleanup_close = open("sparse.tar", O_RDONLY | O_CLOEXEC);
    struct tar_reader *reader cleanup_tar_reader = NULL;
    struct fail why = FAIL_INIT;
    assert_int_equal(tar_reader_open(fd, &reader, &why), 0);
    struct tar_entry entry cleanup_tar_entry = {0};
    while (tar_reader_next(reader, &entry, &why) == 1) {
        print_message("%s: %zu extents\n", entry.name, entry.extent_count);
        if (strcmp(entry.name, "none") == 0)
            assert_null(entry.extents);
        else
            assert_non_null(entry.extents);
        if (strcmp(entry.name, "many") == 0)
            assert_true(entry.extent_count == 300 && entry.extents[299].offset == 299 * 65536);
        if (strcmp(entry.name, "nothing") == 0)
            assert_int_equal(entry.extent_count, 0);
        const void *data;
        size_t bytes;
        uint64_t offset;
        uint64_t sum = 0;
        uint64_t in_extents = 0;
        while (tar_reader_data(reader, &data, &bytes, &offset, &why) == 1)
            sum += bytes;
        for (size_t i = 0; i < entry.extent_count; i++)
            in_extents += entry.extents[i].bytes;
        if (entry.extents)
            assert_int_equal(sum, in_extents);
        tar_entry_done(&entry);
    }
}

/* pax records by hand, before a file of `data` */
static void add_pax(struct buf *archive, const char *records, size_t len, char type)
{
    size_t at = archive->len;
    struct tar_entry header = {.name = STR("PaxHeader"), .mode = S_IFREG, .size_bytes = len};
    assert_int_equal(tar_header_write(archive, "", &header), 0);
    archive->data[at + 156] = type;
    fix_checksum(archive->data + at);
    assert_int_equal(buf_add(archive, records, len), 0);
    assert_int_equal(buf_add_zeros(archive, tar_padding_bytes(len)), 0);
}

static int list_pax(const char *records, size_t len, const char *data, struct buf *listing)
{
    struct buf archive cleanup_buf;
    buf_init(&archive, BYTES_MAX);
    buf_init(listing, LISTING_MAX);
    add_pax(&archive, records, len, 'x');
    add_simple(&archive, "f", S_IFREG | 0644, data);
    add_end(&archive);
    return list_bytes(archive.data, archive.len, listing, NULL);
}

static void test_malformed_pax(unused_arg void **state)
{
    static const char *const records[] = {
        "x",
        "6 a=b\nx",
        "7 a=b\n",
        "5 a=b\n",
        "0 a=b\n",
        "6 =ab\n",
        "6 abc\n",
        "99 a=b\n",
        "99999999999999999999999 a=b\n",
        "-6 a=b\n",
        /* sparse maps that do not fit the 20 bytes of data */
        "24 GNU.sparse.size=1000\n27 GNU.sparse.numblocks=2\n24 GNU.sparse.map=10,10,5,10\n",
        "22 GNU.sparse.size=15\n24 GNU.sparse.map=0,10,90,10\n",
        "22 GNU.sparse.size=99\n21 GNU.sparse.map=0,5\n",
        "22 GNU.sparse.size=99\n24 GNU.sparse.map=0,10,x,10\n",
        "22 GNU.sparse.major=7\n22 GNU.sparse.minor=0\n",
        "12 size=xyz\n20 size=-1\n",
    };
    for (size_t i = 0; i < sizeof(records) / sizeof(records[0]); i++) {
        struct buf listing cleanup_buf;
        int r = list_pax(records[i], strlen(records[i]), "12345678901234567890", &listing);
        if (r != -EILSEQ)
            fail_msg("accepted: %s", records[i]);
    }
}

/* A sparse map without end may not fill the memory. */
static void test_endless_header(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    buf_init(&archive, BYTES_MAX);
    static const char records[] = "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
                                  "34 GNU.sparse.realsize=9000000000\n";
    add_pax(&archive, records, strlen(records), 'x');
    struct buf map cleanup_buf;
    buf_init(&map, BYTES_MAX);
    assert_int_equal(buf_add_string(&map, "4000000\n"), 0);
    for (unsigned i = 0; i < 4000000; i++)
        assert_int_equal(buf_printf(&map, "%u\n0\n", i), 0);
    struct tar_entry entry = {.name = STR("f"), .mode = S_IFREG, .size_bytes = map.len};
    add_member(&archive, &entry, map.data);
    add_end(&archive);
    struct buf listing cleanup_buf;
    struct fail why = FAIL_INIT;
    buf_init(&listing, LISTING_MAX);
    assert_int_equal(list_bytes(archive.data, archive.len, &listing, &why), -EILSEQ);
    assert_non_null(strstr(why.text, "header is over"));
}

/* ---- numbers ---- */

static void one_member(const struct buf *archive, struct tar_entry *ret_entry)
{
    int fd cleanup_close = open_bytes(archive->data, archive->len);
    struct tar_reader *reader cleanup_tar_reader = NULL;
    struct fail why = FAIL_INIT;
    int r = tar_reader_open(fd, &reader, &why);
    if (r == 0)
        r = tar_reader_next(reader, ret_entry, &why);
    if (r < 0)
        fail_msg("%s", why.text);
    assert_int_equal(r, 1);
}

/* Only the header of a file of many GiB: the member is told, its data is missing. */
static void test_huge_sizes(unused_arg void **state)
{
    static const uint64_t sizes[] = {(UINT64_C(8) << 30) - 1, UINT64_C(8) << 30, UINT64_C(1) << 50,
                                     (uint64_t)INT64_MAX - 1024};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct buf archive cleanup_buf;
        buf_init(&archive, BYTES_MAX);
        struct tar_entry entry = {.name = STR("f"), .mode = S_IFREG, .size_bytes = sizes[i]};
        assert_int_equal(tar_header_write(&archive, "", &entry), 0);
        add_end(&archive);
        struct tar_entry got cleanup_tar_entry = {0};
        one_member(&archive, &got);
        assert_true(got.size_bytes == sizes[i]);
        int fd cleanup_close = open_bytes(archive.data, archive.len);
        struct tar_reader *reader cleanup_tar_reader = NULL;
        struct tar_entry unused cleanup_tar_entry = {0};
        assert_int_equal(tar_reader_open(fd, &reader, NULL), 0);
        assert_int_equal(tar_reader_next(reader, &unused, NULL), 1);
        tar_entry_done(&unused);
        assert_int_equal(tar_reader_next(reader, &unused, NULL), -EILSEQ);
    }
}

/* GNU's base-256: uid, gid, size, mtime beyond octal, and before 1970. */
static void test_gnu_numbers(unused_arg void **state)
{
    shell("python3 -c \"import tarfile\n"
          "t = tarfile.open('gnu.tar', 'w', format=tarfile.GNU_FORMAT)\n"
          "m = tarfile.TarInfo('f'); m.uid = 2 ** 32 - 2; m.gid = 2097152\n"
          "m.mtime = -86400; t.addfile(m); t.close()\"");
    struct buf archive cleanup_buf;
    slurp("gnu.tar", &archive);
    struct tar_entry entry cleanup_tar_entry = {0};
    one_member(&archive, &entry);
    assert_int_equal(entry.uid, 4294967294);
    assert_int_equal(entry.gid, 2097152);
    assert_int_equal(entry.mtime_s, -86400);
}

static void test_devices(unused_arg void **state)
{
    shell("python3 -c \"import tarfile\n"
          "for n in 'GNU', 'PAX', 'USTAR':\n"
          "  t = tarfile.open(n + '.tar', 'w', format=getattr(tarfile, n + '_FORMAT'))\n"
          "  for type in b'3', b'4', b'6':\n"
          "    m = tarfile.TarInfo('d' + type.decode()); m.type = type; m.mode = 0o660\n"
          "    m.devmajor, m.devminor = 4095, 1048575; t.addfile(m)\n"
          "  t.close()\"; cat GNU.tar > /dev/null");
    static const char *const names[] = {"GNU.tar", "PAX.tar", "USTAR.tar"};
    for (size_t i = 0; i < 3; i++) {
        struct buf listing cleanup_buf;
        buf_init(&listing, LISTING_MAX);
        assert_int_equal(list_path(names[i], &listing, NULL), 0);
        assert_string_equal(buf_string(&listing),
                            "6433 20660 0:0 0.000000000 0 00000000 4095,1048575 \n"
                            "6434 60660 0:0 0.000000000 0 00000000 4095,1048575 \n"
                            "6436 10660 0:0 0.000000000 0 00000000 0,0 \n");
    }
}

/* ---- attributes ---- */

static const char attributes_py[] =
    "import tarfile\n"
    "t = tarfile.open('attributes.tar', 'w', format=tarfile.PAX_FORMAT)\n"
    "def add(name, mode, type=b'0', **headers):\n"
    "    m = tarfile.TarInfo(name); m.mode = mode; m.type = type\n"
    "    m.pax_headers = {k.replace('__', '.'): v for k, v in headers.items()}\n"
    "    t.addfile(m)\n"
    "add('schily', 0o644, SCHILY__xattr__user__a='value', SCHILY__xattr__user__empty='')\n"
    "add('libarchive', 0o644, **{'LIBARCHIVE.xattr.user.%41b': 'AP8K'})\n"
    "add('both', 0o644, SCHILY__xattr__user__a='x', LIBARCHIVE__xattr__user__a='eA==')\n"
    "add('selinux', 0o644, RHT__security__selinux='system_u:object_r:x:s0')\n"
    "add('acl', 0o664, SCHILY__acl__access=\n"
    "    'user::rw-,user:joe:r--:1000,user:3:rwx,group::r--,mask::rw-,other::---')\n"
    "add('minimal', 0o640, SCHILY__acl__access='user::rw-,group::r--,other::---')\n"
    "add('gnu', 0o675, SCHILY__acl__access=\n"
    "    'user::rw-\\ngroup::---\\ngroup:7:r-x\\nmask::rwx\\nother::r-x\\n')\n"
    "add('default', 0o755, b'5', SCHILY__acl__default=\n"
    "    'user::rwx,user:1:r-x,group::r-x,mask::r-x,other::---')\n"
    "add('default-minimal', 0o755, b'5', SCHILY__acl__default='user::rwx,group::r-x,other::---')\n"
    "t.close()\n";

/* tag, permissions, id of one line of an ACL, in the kernel's form */
#define ACE(tag, perm, id) tag "00" perm "00" id
#define ANY "ffffffff"

static void test_attributes(unused_arg void **state)
{
    spill("attributes.py", attributes_py, strlen(attributes_py));
    shell("python3 attributes.py");
    struct buf listing cleanup_buf;
    struct fail why = FAIL_INIT;
    buf_init(&listing, LISTING_MAX);
    int r = list_path("attributes.tar", &listing, &why);
    if (r < 0)
        fail_msg("%s", why.text);
    static const char *const wanted[] = {
        " user.a=76616c7565",
        " user.Ab=00ff0a",
        " user.a=78\n",
        " security.selinux=73797374656d5f753a6f626a6563745f723a783a7330",
        /* the mode's group bits are the mask */
        " 100660 0:0 0.000000000 0 00000000 0,0  system.posix_acl_access=02000000" ACE(
            "01", "06", ANY) ACE("02", "07", "03000000") ACE("02", "04", "e8030000")
            ACE("04", "04", ANY) ACE("10", "06", ANY) ACE("20", "00", ANY) "\n",
        "6d696e696d616c 100640 0:0 0.000000000 0 00000000 0,0 \n",
        " 100675 0:0 0.000000000 0 00000000 0,0  system.posix_acl_access=02000000" ACE(
            "01", "06", ANY) ACE("04", "00", ANY) ACE("08", "05", "07000000") ACE("10", "07", ANY)
            ACE("20", "05", ANY) "\n",
        " 40755 0:0 0.000000000 0 00000000 0,0  system.posix_acl_default=02000000" ACE(
            "01", "07", ANY) ACE("02", "05", "01000000") ACE("04", "05", ANY) ACE("10", "05", ANY)
            ACE("20", "00", ANY) "\n",
        " 40755 0:0 0.000000000 0 00000000 0,0  system.posix_acl_default=02000000" ACE(
            "01", "07", ANY) ACE("04", "05", ANY) ACE("20", "00", ANY) "\n",
    };
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
        if (!strstr(buf_string(&listing), wanted[i]))
            fail_msg("no %s in\n%s", wanted[i], buf_string(&listing));
}

static void test_bad_acls(unused_arg void **state)
{
    static const char *const values[] = {
        "user::rw-,user:joe:r--,group::r--,mask::rw-,other::---", /* whoever joe is */
        "user::rw-,user:j\xc3\xb6rg:r--,group::r--,mask::rw-,other::---",
        "user::rw-,user:1:r--,group::r--,other::---", /* no mask */
        "user:1:r--,mask::r--x,rubbish",
        "rubbish",
    };
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        struct buf listing cleanup_buf;
        char record[200];
        int len = snprintf(record, sizeof(record), "%zu SCHILY.acl.access=%s\n",
                           strlen(values[i]) + 22, values[i]);
        assert_int_equal(atoi(record), len);
        int r = list_pax(record, (size_t)len, "", &listing);
        if (r != -EILSEQ)
            fail_msg("accepted: %s", values[i]);
    }
}

/* A pax record of an attribute; its length. */
static size_t xattr_record(char *record, size_t room, const char *name, const struct buf *value)
{
    size_t bytes = 4 + strlen("SCHILY.xattr.") + strlen(name) + 1 + value->len + 1;
    bytes += bytes > 99; /* the length's own digits, with the blank: 3 or 4 */
    int head = snprintf(record, room, "%zu SCHILY.xattr.%s=", bytes - 1, name);
    assert_true(head > 0 && (size_t)head + value->len + 1 < room);
    if (value->len)
        memcpy(record + head, value->data, value->len);
    record[(size_t)head + value->len] = '\n';
    assert_int_equal(atoi(record), (size_t)head + value->len + 1);
    return (size_t)head + value->len + 1;
}

static void add_unhex(struct buf *out, const char *hex)
{
    for (; *hex; hex += 2) {
        char digits[3] = {hex[0], hex[1], '\0'};
        char byte = (char)strtol(digits, NULL, 16);
        assert_int_equal(buf_add(out, &byte, 1), 0);
    }
}

/* An ACL that comes as the attribute itself is looked at, and brought into order. */
static void test_acls_as_attributes(unused_arg void **state)
{
#define ACCESS "system.posix_acl_access"
#define HUGE "00286bee" /* 4000000000 */
    static const struct {
        const char *name;
        const char *value;
        const char *wanted; /* NULL: refused */
    } cases[] = {
        {ACCESS,
         "02000000" ACE("01", "06", ANY) ACE("02", "04", HUGE) ACE("04", "04", ANY)
             ACE("10", "05", ANY) ACE("20", "00", ANY),
         " 100654 0:0 1000000000.000000000 0 00000000 0,0  system.posix_acl_access=02000000" ACE(
             "01", "06", ANY) ACE("02", "04", HUGE) ACE("04", "04", ANY) ACE("10", "05", ANY)
             ACE("20", "00", ANY) "\n"},
        {ACCESS,
         "02000000" ACE("20", "00", ANY) ACE("10", "05", ANY) ACE("02", "04", HUGE)
             ACE("04", "04", HUGE) ACE("01", "06", ANY),
         ACE("01", "06", ANY) ACE("02", "04", HUGE) ACE("04", "04", ANY) ACE("10", "05", ANY)
             ACE("20", "00", ANY) "\n"},
        {ACCESS, "02000000", "posix_acl_access=02000000\n"}, /* there is none */
        {ACCESS, /* somebody without a number is nobody */
         "02000000" ACE("01", "06", ANY) ACE("02", "04", ANY) ACE("04", "04", ANY)
             ACE("10", "05", ANY) ACE("20", "00", ANY),
         "posix_acl_access=02000000" ACE("01", "06", ANY) ACE("04", "04", ANY) ACE("10", "05", ANY)
             ACE("20", "00", ANY) "\n"},
        {ACCESS, "03000000" ACE("01", "06", ANY) ACE("04", "04", ANY) ACE("20", "00", ANY), NULL},
        {ACCESS, "02000000" ACE("01", "06", ANY) ACE("04", "04", ANY), NULL},
        {ACCESS,
         "02000000" ACE("01", "06", ANY) ACE("02", "04", HUGE) ACE("04", "04", ANY)
             ACE("20", "00", ANY),
         NULL}, /* no mask */
        {ACCESS, "02000000" ACE("03", "06", ANY) ACE("04", "04", ANY) ACE("20", "00", ANY), NULL},
        {ACCESS, "02000000" ACE("40", "06", ANY) ACE("04", "04", ANY) ACE("20", "00", ANY), NULL},
        {ACCESS, "02000000" ACE("01", "06", ANY) ACE("04", "04", ANY) "2000", NULL},
        {ACCESS, "02000000" ACE("02", "06", ANY), NULL}, /* of nobody alone */
        {ACCESS, "0200", NULL},
        {ACCESS, "", NULL},
        {"system.posix_acl_default", /* of a file */
         "02000000" ACE("01", "06", ANY) ACE("04", "04", ANY) ACE("20", "00", ANY), NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct buf value cleanup_buf;
        struct buf listing cleanup_buf;
        char record[200];
        buf_init(&value, BYTES_MAX);
        add_unhex(&value, cases[i].value);
        int r = list_pax(record, xattr_record(record, sizeof(record), cases[i].name, &value), "",
                         &listing);
        if (r != (cases[i].wanted ? 0 : -EILSEQ) ||
            (cases[i].wanted && !strstr(buf_string(&listing), cases[i].wanted)))
            fail_msg("case %zu: %d, %s", i, r, buf_string(&listing));
    }
}

/* The kernel takes what comes out, where there is a file system that has ACLs. */
static void test_kernel_takes_acls(unused_arg void **state)
{
    int fd cleanup_close = open("attributes.tar", O_RDONLY | O_CLOEXEC);
    struct tar_reader *reader cleanup_tar_reader = NULL;
    struct tar_entry entry cleanup_tar_entry = {0};
    assert_int_equal(tar_reader_open(fd, &reader, NULL), 0);
    shell("rm -rf acl && mkdir acl && touch acl/file");
    while (tar_reader_next(reader, &entry, NULL) == 1) {
        const char *path = S_ISDIR(entry.mode) ? "acl" : "acl/file";
        for (size_t i = 0; i < entry.xattr_count; i++) {
            const struct tar_xattr *xattr = &entry.xattrs[i];
            if (strncmp(xattr->name, "system.", 7) != 0)
                continue;
            int r = setxattr(path, xattr->name, xattr->value, xattr->value_bytes, 0);
            if (r < 0 && (errno == EOPNOTSUPP || errno == EPERM))
                skip();
            assert_int_equal(r, 0);
        }
        tar_entry_done(&entry);
    }
}

/* ---- links, skipping, and the rest ---- */

static void test_hard_links(unused_arg void **state)
{
    static const char *const commands[] = {
        "tar --format=gnu -C hard -cf hard.tar ./a ./b ./dir/c",
        "tar --format=pax -C hard -cf hard.tar ./a ./b ./dir/c",
        "bsdtar --format=pax -C hard -cf hard.tar ./a ./b ./dir/c",
        "bsdtar --format=ustar -C hard -cf hard.tar ./a ./b ./dir/c",
        "tar --format=v7 -C hard -cf hard.tar ./a ./b ./dir/c",
    };
    shell("mkdir -p hard/dir && echo 12345 > hard/a && ln hard/a hard/b && ln hard/a hard/dir/c &&"
          "touch -d @1 hard/a");
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        shell("%s", commands[i]);
        struct buf listing cleanup_buf;
        buf_init(&listing, LISTING_MAX);
        assert_int_equal(list_path("hard.tar", &listing, NULL), 0);
        char crc[16];
        (void)snprintf(crc, sizeof(crc), "%08lx", crc32(0, (const unsigned char *)"12345\n", 6));
        struct buf wanted cleanup_buf;
        buf_init(&wanted, LISTING_MAX);
        assert_int_equal(buf_printf(&wanted,
                                    "61 100644 0:0 1.000000000 6 %s 0,0 \n"
                                    "62 100644H 0:0 1.000000000 0 00000000 0,0 61\n"
                                    "6469722f63 100644H 0:0 1.000000000 0 00000000 0,0 61\n",
                                    crc),
                         0);
        assert_string_equal(buf_string(&listing), buf_string(&wanted));
    }
}

/* Members may be skipped, or read in part; what follows is the same, and the end is checked. */
static void test_skipping(unused_arg void **state)
{
    shell("tar --format=pax -S -cf skip.tar plain sparse && (cat skip.tar; echo) > skip2.tar");
    static const char *const names[] = {"skip.tar", "skip2.tar"};
    for (size_t i = 0; i < 2; i++)
        for (int runs = 0; runs < 3; runs++) {
            int fd cleanup_close = open(names[i], O_RDONLY | O_CLOEXEC);
            struct tar_reader *reader cleanup_tar_reader = NULL;
            assert_int_equal(tar_reader_open(fd, &reader, NULL), 0);
            struct tar_entry entry cleanup_tar_entry = {0};
            int members = 0;
            int r;
            while ((r = tar_reader_next(reader, &entry, NULL)) == 1) {
                const void *data;
                size_t bytes;
                uint64_t offset;
                for (int k = 0; k < runs; k++)
                    assert_true(tar_reader_data(reader, &data, &bytes, &offset, NULL) >= 0);
                tar_entry_done(&entry);
                members++;
            }
            assert_int_equal(members, 21);
            assert_int_equal(r, i == 0 ? 0 : -EILSEQ);
        }
}

static void test_names_stay_hostile(unused_arg void **state)
{
    static const char *const names[][2] = {
        {"/etc/passwd", "/etc/passwd"},
        {"../up", "../up"},
        {"a/../../b", "a/../../b"},
        {"//x", "/x"},
        {"a//b", "a/b"},
        {"./././c", "c"},
    };
    struct buf archive cleanup_buf;
    buf_init(&archive, BYTES_MAX);
    for (size_t i = 0; i < 6; i++)
        add_simple(&archive, names[i][0], S_IFREG | 0644, "");
    add_hard_link(&archive, "l", ".//a/./b/");
    add_end(&archive);
    int fd cleanup_close = open_bytes(archive.data, archive.len);
    struct tar_reader *reader cleanup_tar_reader = NULL;
    struct tar_entry entry cleanup_tar_entry = {0};
    assert_int_equal(tar_reader_open(fd, &reader, NULL), 0);
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(tar_reader_next(reader, &entry, NULL), 1);
        assert_string_equal(entry.name, names[i][1]);
        tar_entry_done(&entry);
    }
    assert_int_equal(tar_reader_next(reader, &entry, NULL), 1);
    assert_string_equal(entry.link_target, "a/b");
}

/* Comments before the first member, as git archive writes; a trailing one is no end. */
static void test_global_headers(unused_arg void **state)
{
    static const char comment[] = "14 comment=hi\n";
    struct buf archive cleanup_buf;
    buf_init(&archive, BYTES_MAX);
    add_pax(&archive, comment, strlen(comment), 'g');
    add_simple(&archive, "f", S_IFREG | 0644, "x");
    size_t members = archive.len;
    add_end(&archive);
    assert_int_equal(list_result(archive.data, archive.len), 0);
    archive.len = members;
    add_pax(&archive, comment, strlen(comment), 'x');
    add_end(&archive);
    assert_refused(archive.data, archive.len);
}

static void test_symlink_to_nothing(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    buf_init(&archive, BYTES_MAX);
    add_simple(&archive, "l", S_IFLNK | 0777, "");
    add_end(&archive);
    assert_refused(archive.data, archive.len);
}

/* Once refused, the reader stays so: libarchive would look for the next header. */
static void test_errors_stay(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    buf_init(&archive, BYTES_MAX);
    add_simple(&archive, "a", S_IFREG | 0644, "");
    add_simple(&archive, "b", S_IFREG | 0644, "");
    add_simple(&archive, "c", S_IFREG | 0644, "text");
    add_end(&archive);
    archive.data[512] ^= 1;
    int fd cleanup_close = open_bytes(archive.data, archive.len);
    struct tar_reader *reader cleanup_tar_reader = NULL;
    struct tar_entry entry cleanup_tar_entry = {0};
    const void *data;
    size_t bytes;
    uint64_t offset;
    assert_int_equal(tar_reader_open(fd, &reader, NULL), 0);
    assert_int_equal(tar_reader_next(reader, &entry, NULL), 1);
    tar_entry_done(&entry);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(tar_reader_next(reader, &entry, NULL), -EILSEQ);
        assert_null(entry.name);
        assert_int_equal(tar_reader_data(reader, &data, &bytes, &offset, NULL), -EILSEQ);
    }
}

static void test_old_directories(unused_arg void **state)
{
    struct buf archive cleanup_buf;
    buf_init(&archive, BYTES_MAX);
    add_simple(&archive, "old", S_IFDIR | 0755, NULL);
    archive.data[156] = '\0'; /* a file, were it not for the '/' */
    fix_checksum(archive.data);
    add_end(&archive);
    struct tar_entry entry cleanup_tar_entry = {0};
    one_member(&archive, &entry);
    assert_int_equal(entry.mode, S_IFDIR | 0755);
    assert_string_equal(entry.name, "old");
}

static void test_unreadable(unused_arg void **state)
{
    struct tar_reader *reader = NULL;
    struct fail why = FAIL_INIT;
    assert_int_equal(tar_reader_open(-1, &reader, &why), -EBADF);
    assert_null(reader);
    int fd cleanup_close = open(".", O_RDONLY | O_CLOEXEC);
    assert_int_equal(tar_reader_open(fd, &reader, &why), -EISDIR);
}

/* Reading does not depend on the locale, nor change it. */
static void test_locale(unused_arg void **state)
{
    shell("tar --format=pax -C hostile -cf locale.tar .");
    struct buf utf8 cleanup_buf;
    struct buf c cleanup_buf;
    buf_init(&utf8, LISTING_MAX);
    buf_init(&c, LISTING_MAX);
    assert_int_equal(list_path("locale.tar", &utf8, NULL), 0);
    assert_int_equal(uselocale((locale_t)0), LC_GLOBAL_LOCALE);
    (void)setlocale(LC_CTYPE, "C");
    assert_int_equal(list_path("locale.tar", &c, NULL), 0);
    (void)setlocale(LC_CTYPE, "C.UTF-8");
    assert_string_equal(buf_string(&utf8), buf_string(&c));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dialects),
        cmocka_unit_test(test_end_blocks),
        cmocka_unit_test(test_something_after_the_end),
        cmocka_unit_test(test_only_zeros_is_an_archive_without_members),
        cmocka_unit_test(test_not_an_archive),
        cmocka_unit_test(test_compressed),
        cmocka_unit_test(test_concatenated),
        cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_cut_after_the_end),
        cmocka_unit_test(test_flipped_bytes_compressed),
        cmocka_unit_test(test_flipped_bytes_plain),
        cmocka_unit_test(test_sparse),
        cmocka_unit_test(test_extents),
        cmocka_unit_test(test_malformed_pax),
        cmocka_unit_test(test_endless_header),
        cmocka_unit_test(test_huge_sizes),
        cmocka_unit_test(test_gnu_numbers),
        cmocka_unit_test(test_devices),
        cmocka_unit_test(test_attributes),
        cmocka_unit_test(test_bad_acls),
        cmocka_unit_test(test_acls_as_attributes),
        cmocka_unit_test(test_kernel_takes_acls),
        cmocka_unit_test(test_hard_links),
        cmocka_unit_test(test_skipping),
        cmocka_unit_test(test_names_stay_hostile),
        cmocka_unit_test(test_global_headers),
        cmocka_unit_test(test_symlink_to_nothing),
        cmocka_unit_test(test_errors_stay),
        cmocka_unit_test(test_old_directories),
        cmocka_unit_test(test_unreadable),
        cmocka_unit_test(test_locale),
    };
    return cmocka_run_group_tests(tests, make_trees, leave_test_dir);
}
