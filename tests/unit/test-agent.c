/* SPDX-License-Identifier: MIT */
/* src/agent: records, opening beneath a root, listing and walking. */
#include "check.h"

#include "agent/beneath.h"
#include "agent/walk.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <sys/xattr.h>

static char top[64];
static int root;

static void run(const char *script)
{
    char *command = NULL;
    assert_true(asprintf(&command, "cd '%s' && { %s ; }", top, script) > 0);
    assert_int_equal(system(command), 0);
    free(command);
}

static int set_up(void **state)
{
    (void)state;
    (void)snprintf(top, sizeof(top), "/tmp/test-agent-XXXXXX");
    assert_non_null(mkdtemp(top));
    root = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return root < 0;
}

static int tear_down(void **state)
{
    (void)state;
    (void)close(root);
    char *command = NULL;
    assert_true(asprintf(&command, "rm -rf '%s'", top) > 0);
    int status = system(command);
    free(command);
    return status;
}

/* ---- records --------------------------------------------------------------------- */

static void make_record(struct buf *record)
{
    struct buf xattrs cleanup_buf;
    buf_init(&xattrs, FILE_MAX_XATTR_BYTES);
    assert_int_equal(file_xattr_add(&xattrs, "user.a", "va\0lue", 6), 0);
    assert_int_equal(file_xattr_add(&xattrs, "user.empty", "", 0), 0);
    struct file_extent extents[2] = {{4096, 100}, {8192, 1}};
    struct file file = {.stat = {.mode = S_IFREG | 04755,
                                 .nlink = 2,
                                 .uid = 4294967294U,
                                 .gid = 7,
                                 .size_bytes = 10000,
                                 .blocks = 3,
                                 .dev = 1,
                                 .ino = UINT64_MAX,
                                 .mtime = {-5, 999999999},
                                 .ctime = {1LL << 40, 1},
                                 .birth = {3, 4}},
                        .name = "a\nname",
                        .link_target = "",
                        .xattrs = xattrs.data,
                        .xattr_bytes = xattrs.len,
                        .extent_count = 2,
                        .is_sparse = true};
    assert_int_equal(file_write(record, &file, extents), 0);
}

static void a_record_comes_back_as_it_was(void **state)
{
    (void)state;
    struct buf record cleanup_buf;
    buf_init(&record, 1 << 20);
    make_record(&record);
    size_t position = 0;
    struct file file;
    assert_int_equal(file_read(record.data, record.len, &position, &file), 1);
    assert_int_equal(position, record.len);
    assert_string_equal(file.name, "a\nname");
    assert_int_equal(file.stat.mode, S_IFREG | 04755);
    assert_int_equal(file.stat.uid, 4294967294U);
    assert_true(file.stat.ino == UINT64_MAX);
    assert_true(file.stat.mtime.s == -5 && file.stat.mtime.ns == 999999999);
    assert_true(file.stat.birth.s == 3 && file.stat.birth.ns == 4);
    assert_int_equal(file.extent_count, 2);
    assert_true(file_extent_at(&file, 1).offset == 8192);
    size_t at = 0, len;
    const char *name;
    const void *value;
    assert_int_equal(file_xattr_next(&file, &at, &name, &value, &len), 1);
    assert_string_equal(name, "user.a");
    assert_memory_equal(value, "va\0lue", 6);
    assert_int_equal(file_xattr_next(&file, &at, &name, &value, &len), 1);
    assert_int_equal(len, 0);
    assert_int_equal(file_xattr_next(&file, &at, &name, &value, &len), 0);
    assert_int_equal(file_read(record.data, record.len, &position, &file), 0);
}

/* What is read from a damaged record, if it is read at all, stays within it:
 * the sanitizers watch. */
static void read_everything(const char *data, size_t len)
{
    size_t position = 0, at = 0, value_len;
    struct file file;
    const char *name;
    const void *value;
    volatile uint64_t sum = 0;
    while (file_read(data, len, &position, &file) == 1) {
        sum += strlen(file.name) + strlen(file.link_target);
        for (size_t i = 0; i < file.extent_count; i++)
            sum += file_extent_at(&file, i).bytes;
        while (file_xattr_next(&file, &at, &name, &value, &value_len))
            for (size_t i = 0; i < value_len; i++)
                sum += ((const unsigned char *)value)[i];
    }
}

static void damaged_records_are_refused_or_read_within_bounds(void **state)
{
    (void)state;
    struct buf record cleanup_buf;
    buf_init(&record, 1 << 20);
    make_record(&record);
    for (size_t len = 1; len < record.len; len++) {
        cleanup_free char *copy = malloc(len);
        memcpy(copy, record.data, len);
        size_t position = 0;
        struct file file;
        assert_int_equal(file_read(copy, len, &position, &file), -EBADMSG);
    }
    static const unsigned char flips[] = {0x01, 0x80, 0xff};
    for (size_t i = 0; i < record.len; i++) {
        for (size_t f = 0; f < sizeof(flips); f++) {
            cleanup_free char *copy = malloc(record.len);
            memcpy(copy, record.data, record.len);
            copy[i] = (char)((unsigned char)copy[i] ^ flips[f]);
            read_everything(copy, record.len);
        }
    }
}

/* ---- beneath ----------------------------------------------------------------------- */

static int try_open(const char *path)
{
    int fd = beneath_open(root, path, O_RDONLY);
    if (fd >= 0)
        (void)close(fd);
    return fd < 0 ? fd : 0;
}

static void no_link_and_no_dots_lead_anywhere(void **state)
{
    (void)state;
    run("mkdir -p d/e && echo x >d/e/f && ln -s d l && ln -s e d/l && ln -s /etc abs && "
        "ln -s /proc/self/fd/0 magic");
    assert_int_equal(try_open("d/e/f"), 0);
    assert_int_equal(try_open(""), 0);
    assert_int_equal(try_open("l"), -ELOOP);
    assert_int_equal(try_open("l/e/f"), -ELOOP);
    assert_int_equal(try_open("d/l/f"), -ELOOP);
    assert_int_equal(try_open("abs/passwd"), -ELOOP);
    assert_int_equal(try_open("magic"), -ELOOP);
    assert_int_equal(try_open("../"), -EXDEV);
    assert_int_equal(try_open("/etc/passwd"), -EXDEV);
    assert_int_equal(try_open("d/../../x"), -EXDEV);
    assert_int_equal(try_open("nothing"), -ENOENT);
    assert_int_equal(try_open("d/e/f/g"), -ENOTDIR);
    char long_name[300];
    memset(long_name, 'n', sizeof(long_name));
    long_name[sizeof(long_name) - 1] = '\0';
    assert_int_equal(try_open(long_name), -ENAMETOOLONG);
}

/* Directories of 200 bytes each, far beyond PATH_MAX. */
static char *make_deep(unsigned levels)
{
    struct buf path;
    buf_init(&path, 1 << 20);
    char name[201];
    memset(name, 'd', 200);
    name[200] = '\0';
    cleanup_close int here = dup(root);
    for (unsigned i = 0; i < levels; i++) {
        assert_int_equal(mkdirat(here, name, 0700), 0);
        int next = openat(here, name, O_RDONLY | O_DIRECTORY);
        assert_true(next >= 0);
        (void)close(here);
        here = next;
        assert_int_equal(buf_printf(&path, "%s%s", i ? "/" : "", name), 0);
    }
    int fd = openat(here, "file", O_WRONLY | O_CREAT, 0600);
    assert_int_equal(write(fd, "deep", 4), 4);
    (void)close(fd);
    assert_int_equal(buf_add_string(&path, "/file"), 0);
    return buf_take(&path);
}

static void paths_may_be_longer_than_the_kernel_takes(void **state)
{
    (void)state;
    cleanup_free char *path = make_deep(60); /* 12 KB */
    cleanup_close int fd = beneath_open(root, path, O_RDONLY);
    assert_true(fd >= 0);
    char text[4];
    assert_int_equal(read(fd, text, 4), 4);
    struct buf record cleanup_buf;
    buf_init(&record, 1 << 20);
    assert_int_equal(inspect_file(root, path, "x", 0, &record), 0);
}

/* ---- listing and walking ----------------------------------------------------------- */

static char *names_of_walk(unsigned flags, size_t chunk)
{
    struct walk *walk cleanup_walk = walk_new(root, flags);
    struct buf records cleanup_buf;
    buf_init(&records, 1 << 26);
    struct buf names;
    buf_init(&names, 1 << 26);
    int r;
    while ((r = walk_next(walk, chunk, &records)) > 0) {
        size_t position = 0;
        struct file file;
        while (file_read(records.data, records.len, &position, &file) == 1)
            assert_int_equal(buf_printf(&names, "%s\n", file.name), 0);
        buf_clear(&records);
    }
    assert_int_equal(r, 0);
    return buf_take(&names);
}

static void a_walk_is_depth_first_and_sorted_by_bytes(void **state)
{
    (void)state;
    run("mkdir -p b/x a/z 'a b' && touch b/x/1 b/y a/z/2 a-b a.b 'a b/3' c");
    static const char expected[] = "\na\na/z\na/z/2\na b\na b/3\na-b\na.b\nb\nb/x\nb/x/1\nb/y\nc\n";
    cleanup_free char *whole = names_of_walk(0, 1 << 20);
    assert_string_equal(whole, expected);
    cleanup_free char *pieces = names_of_walk(INSPECT_XATTRS | INSPECT_EXTENTS, 1);
    assert_string_equal(pieces, expected);
}

static void a_walk_goes_as_deep_as_there_is(void **state)
{
    (void)state;
    free(make_deep(60));
    cleanup_free char *names = names_of_walk(0, 4096);
    size_t lines = 0;
    for (const char *at = names; *at; at++)
        lines += *at == '\n';
    assert_int_equal(lines, 62);
}

static void read_wanted(const char *path, struct buf *wanted)
{
    buf_init(wanted, 1 << 26);
    int fd cleanup_close = open(path, O_RDONLY | O_CLOEXEC);
    char piece[4096];
    ssize_t n;
    while ((n = read(fd, piece, sizeof(piece))) > 0)
        assert_int_equal(buf_add(wanted, piece, (size_t)n), 0);
    assert_int_equal(unlink(path), 0);
}

/* Where there is nobody to help. */
static void check_walk_alone(const struct buf *wanted)
{
    cpu_set_t all;
    cpu_set_t one;
    assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
    CPU_ZERO(&one);
    for (int i = 0; CPU_COUNT(&one) == 0; i++)
        if (CPU_ISSET(i, &all))
            CPU_SET(i, &one);
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
    cleanup_free char *names = names_of_walk(0, 1 << 20);
    assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
    assert_string_equal(names, buf_string(wanted));
}

/* Where those who help cannot open anything: the walk does what they fail to. */
static void check_walk_with_few_descriptors(const struct buf *wanted)
{
    struct rlimit before;
    int next = dup(root);
    (void)close(next);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    for (rlim_t more = 4; more < 24; more += 4) {
        struct rlimit few = {.rlim_cur = (rlim_t)next + more, .rlim_max = before.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
        struct walk *walk cleanup_walk = walk_new(root, 0);
        struct buf names cleanup_buf;
        struct file file;
        buf_init(&names, 1 << 26);
        int r;
        while ((r = walk_step(walk, &file)) > 0)
            assert_int_equal(buf_printf(&names, "%s\n", file.name), 0);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
        if (r == 0)
            assert_string_equal(buf_string(&names), buf_string(wanted));
        else /* told, not left out */
            assert_int_equal(r, -EMFILE);
        if (more >= 20 && r < 0)
            fail_msg("%d descriptors do not do", (int)more);
    }
}

/* More than are listed ahead, at each depth, directories that are listed in pieces, more of
 * them than may be at a time, and walks that are given up on the way. */
static void a_walk_of_many_directories(void **state)
{
    (void)state;
    run("seq -f '%.0f/a' 300 | xargs mkdir -p; seq -f '7/%.0f/b/c' 200 | xargs mkdir -p;"
        "seq -f '9/x/%.0f' 500 | xargs mkdir -p; for i in $(seq 40); do "
        "seq -f \"8/$i/%.0f/l/m\" 40 | xargs mkdir -p; done;"
        "seq -f '6/%.0f/x' 1 37 8000 | xargs mkdir -p; seq -f '6/%.0f' 8001 13000 | xargs touch;"
        "seq -f 'f%.0f' 3000 | xargs touch; mkdir 5; seq -f '5/%.0f' 2049 | xargs touch;"
        "d=4; for i in $(seq 18); do d=$d/0; mkdir -p $d;"
        "seq -f \"$d/%.0f\" 2100 | xargs touch; done;"
        "find . -type d -printf '%p/f\\0' | xargs -0 touch;"
        "{ echo; find . -mindepth 1 -printf '%P\\n' | tr / '\\001' | LC_ALL=C sort | tr '\\001' /;"
        "} >$PWD.wanted");
    char path[sizeof(top) + 8];
    (void)snprintf(path, sizeof(path), "%s.wanted", top);
    struct buf wanted cleanup_buf;
    read_wanted(path, &wanted);
    for (size_t chunk = 1; chunk < 10000000; chunk *= 100) {
        cleanup_free char *names = names_of_walk(INSPECT_XATTRS, chunk);
        assert_string_equal(names, buf_string(&wanted));
    }
    for (size_t chunk = 1; chunk < 100000; chunk *= 10) {
        struct walk *walk cleanup_walk = walk_new(root, 0);
        struct buf records cleanup_buf;
        buf_init(&records, 1 << 26);
        assert_int_equal(walk_next(walk, chunk, &records), 1);
    }
    check_walk_alone(&wanted);
    check_walk_with_few_descriptors(&wanted);
}

/* A name that changes while the walk is within the directory is told as it was. */
static void a_large_directory_is_of_one_moment(void **state)
{
    (void)state;
    run("mkdir large; seq -f 'large/%.0f' 10000 15000 | xargs mkdir");
    struct walk *walk cleanup_walk = walk_new(root, 0);
    struct file file = {.name = ""};
    while (strcmp(file.name, "large/10000") != 0)
        assert_int_equal(walk_step(walk, &file), 1);
    run("mv large/14999 large/1; mv large/12000 large/99999; rmdir large/15000");
    size_t count = 1;
    while (walk_step(walk, &file) == 1)
        count += strncmp(file.name, "large/", 6) == 0;
    assert_int_equal(count, 5001);
}

static void inspect_one(const char *path, struct buf *record, struct file *file)
{
    buf_init(record, 1 << 24);
    assert_int_equal(inspect_file(root, path, path, INSPECT_XATTRS | INSPECT_EXTENTS, record), 0);
    size_t position = 0;
    assert_int_equal(file_read(record->data, record->len, &position, file), 1);
}

static int try_open_file(const char *path, const struct file_stat *wanted)
{
    struct file_stat st;
    int fd = inspect_open_file(root, path, wanted->dev, file_identity(wanted), &st);
    if (fd < 0)
        return fd;
    char text[4] = "";
    assert_int_equal(read(fd, text, sizeof(text)), 3);
    assert_int_equal(st.size_bytes, 3);
    (void)close(fd);
    return 0;
}

static void only_the_file_that_was_seen_is_opened(void **state)
{
    (void)state;
    static const char *const others[] = {"dir", "fifo", "null", "socket", "other", "link"};
    run("printf one >file && ln file same && printf two >other && mkdir dir && mkfifo fifo && "
        "ln -s file link && { mknod null c 1 3 2>/dev/null || touch null; } && "
        "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'");
    struct buf record cleanup_buf;
    struct file file;
    inspect_one("file", &record, &file);
    const struct file_stat *wanted = &file.stat;
    assert_int_equal(try_open_file("file", wanted), 0);
    assert_int_equal(try_open_file("same", wanted), 0);
    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++)
        assert_int_equal(try_open_file(others[i], wanted), -ESTALE);
    assert_int_equal(try_open_file("../file", wanted), -EXDEV);
    assert_int_equal(try_open_file("nothing", wanted), -ENOENT);
}

static void holes_and_attributes_are_told(void **state)
{
    (void)state;
    run("truncate -s 10M sparse && printf x | dd of=sparse bs=1 seek=5000000 conv=notrunc "
        "2>/dev/null && truncate -s 1G hole && echo full >full && ln -s some/where link");
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/full", top);
    bool has_xattrs = setxattr(path, "user.k", "v", 1, 0) == 0;
    struct buf record;
    struct file file;
    inspect_one("sparse", &record, &file);
    assert_true(file.is_sparse);
    assert_int_equal(file.extent_count, 1);
    struct file_extent extent = file_extent_at(&file, 0);
    assert_true(extent.offset <= 5000000 && extent.offset + extent.bytes > 5000000);
    buf_done(&record);
    inspect_one("hole", &record, &file);
    assert_true(file.is_sparse);
    assert_int_equal(file.extent_count, 0);
    buf_done(&record);
    inspect_one("full", &record, &file);
    assert_false(file.is_sparse);
    size_t at = 0, len;
    const char *name;
    const void *value;
    assert_int_equal(file_xattr_next(&file, &at, &name, &value, &len), has_xattrs);
    buf_done(&record);
    inspect_one("link", &record, &file);
    assert_string_equal(file.link_target, "some/where");
    buf_done(&record);
}

static void a_listing_of_many_comes_in_pieces(void **state)
{
    (void)state;
    run("seq -w 1 3000 | xargs touch");
    struct listing *listing cleanup_listing = NULL;
    assert_int_equal(listing_open(root, "", &listing), 0);
    run("rm -f 1500 2999"); /* gone since: passed over */
    struct buf records cleanup_buf;
    buf_init(&records, 1 << 24);
    unsigned count = 0, pieces = 0;
    char last[16] = "";
    while (listing_next(listing, 0, 8192, &records) > 0) {
        size_t position = 0;
        struct file file;
        while (file_read(records.data, records.len, &position, &file) == 1) {
            assert_true(strcmp(last, file.name) < 0);
            (void)snprintf(last, sizeof(last), "%s", file.name);
            count++;
        }
        pieces++;
        buf_clear(&records);
    }
    assert_int_equal(count, 2998);
    assert_true(pieces > 10);
    struct listing *none = NULL;
    assert_int_equal(listing_open(root, "0001", &none), -ENOTDIR);
    assert_int_equal(listing_open(root, "nothing", &none), -ENOENT);
}

static void a_removed_directory_is_empty(void **state)
{
    (void)state;
    run("mkdir gone");
    cleanup_close int gone = openat(root, "gone", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(gone >= 0);
    run("rmdir gone");
    struct listing *listing cleanup_listing = NULL;
    assert_int_equal(listing_open(gone, "", &listing), 0);
    assert_int_equal(listing_count(listing), 0);
}

/* While directories are swapped for links out of the root, nothing outside is
 * ever opened. */
static void a_racing_link_never_leads_out(void **state)
{
    (void)state;
    run("mkdir in out && echo inside >in/file && echo outside >out/file && mkdir tree && "
        "cp -r in tree/dir && ln -s ../out tree/link");
    pid_t pid = fork();
    if (pid == 0) {
        char dir[128], link[128], spare[128];
        (void)snprintf(dir, sizeof(dir), "%s/tree/dir", top);
        (void)snprintf(link, sizeof(link), "%s/tree/link", top);
        (void)snprintf(spare, sizeof(spare), "%s/tree/spare", top);
        for (;;)
            if (rename(dir, spare) != 0 || rename(link, dir) != 0 || rename(dir, link) != 0 ||
                rename(spare, dir) != 0)
                _exit(1);
    }
    cleanup_close int tree = openat(root, "tree", O_RDONLY | O_DIRECTORY);
    unsigned opened = 0, refused = 0;
    for (int i = 0; i < 50000; i++) {
        int fd = beneath_open(tree, "dir/file", O_RDONLY);
        if (fd < 0) {
            assert_true(fd == -ELOOP || fd == -ENOENT || fd == -ENOTDIR || fd == -EXDEV);
            refused++;
            continue;
        }
        char text[8] = "";
        assert_int_equal(read(fd, text, 6), 6);
        assert_string_equal(text, "inside");
        (void)close(fd);
        opened++;
    }
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
    assert_true(opened > 0);
    assert_true(refused > 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_record_comes_back_as_it_was),
        TEST(damaged_records_are_refused_or_read_within_bounds),
        TEST(no_link_and_no_dots_lead_anywhere),
        TEST(paths_may_be_longer_than_the_kernel_takes),
        TEST(a_walk_is_depth_first_and_sorted_by_bytes),
        TEST(a_walk_goes_as_deep_as_there_is),
        TEST(a_walk_of_many_directories),
        TEST(a_large_directory_is_of_one_moment),
        TEST(only_the_file_that_was_seen_is_opened),
        TEST(holes_and_attributes_are_told),
        TEST(a_listing_of_many_comes_in_pieces),
        TEST(a_removed_directory_is_empty),
        TEST(a_racing_link_never_leads_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
