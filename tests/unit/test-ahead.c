/* SPDX-License-Identifier: MIT */
#include "check.h"

#include "test-tar.h"

#include "agent/inspect.h"
#include "base/fd.h"
#include "job/ahead.h"
#include "volume/local.h"

#include <dirent.h>
#include <time.h>

/* ---- a volume in a directory -------------------------------------------------------- */

struct volume {
    struct contents *contents;
    struct ahead *ahead;
    int root;
    size_t fds; /* that were open before */
};

/* A file as it was. */
struct known {
    char path[64];
    uint64_t dev, id;
};

static size_t count_fds(const char *suffix)
{
    DIR *dir = opendir("/proc/self/fd");
    assert_non_null(dir);
    size_t count = 0;
    char target[512];
    struct dirent *entry;
    while ((entry = readdir(dir))) {
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);
        target[n < 0 ? 0 : n] = '\0';
        size_t len = strlen(target);
        if (n > 0 && len >= strlen(suffix) && strcmp(target + len - strlen(suffix), suffix) == 0)
            count++;
    }
    (void)closedir(dir);
    return count;
}

static void wait_open(const char *suffix)
{
    while (count_fds(suffix) == 0)
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void volume_begin(struct volume *volume, const char *make)
{
    shell("rm -rf tree && mkdir tree && cd tree && %s", make);
    volume->fds = count_fds("");
    volume->root = open("tree", O_PATH | O_DIRECTORY | O_CLOEXEC);
    int root = open("tree", O_PATH | O_DIRECTORY | O_CLOEXEC);
    assert_true(volume->root >= 0 && root >= 0);
    volume->contents = local_contents_at(root);
    assert_non_null(volume->contents);
    volume->ahead = ahead_new(volume->contents);
    assert_non_null(volume->ahead);
}

/* Nothing is left open. */
static void volume_end(struct volume *volume)
{
    ahead_free(volume->ahead);
    assert_int_equal(volume->contents->refs, 1);
    contents_unref(volume->contents);
    (void)close(volume->root);
    assert_int_equal(count_fds(""), volume->fds);
}

static struct known know(const struct volume *volume, const char *path)
{
    struct known known;
    struct file file;
    size_t position = 0;
    struct buf record cleanup_buf;
    buf_init(&record, 65536);
    (void)snprintf(known.path, sizeof(known.path), "%s", path);
    assert_int_equal(inspect_file(volume->root, path, path, 0, &record), 0);
    assert_int_equal(file_read(record.data, record.len, &position, &file), 1);
    known.dev = file.stat.dev;
    known.id = file_identity(&file.stat);
    return known;
}

static bool expect(struct volume *volume, const struct known *known, uint64_t size)
{
    return ahead_expect(volume->ahead, known->path, known->dev, known->id, size);
}

static int try_open(struct volume *volume, const struct known *known)
{
    struct contents_file *file;
    int r = ahead_open(volume->ahead, known->path, known->dev, known->id, NULL, &file);
    if (r == 0)
        contents_close(file);
    return r;
}

static void assert_contains(struct contents_file *file, const char *text)
{
    char bytes[256];
    size_t len = strlen(text);
    assert_int_equal(contents_read(file, bytes, sizeof(bytes), 0, NULL), len);
    assert_memory_equal(bytes, text, len);
    assert_int_equal(contents_read(file, bytes, 2, 1, NULL), len < 3 ? len - 1 : 2);
    assert_memory_equal(bytes, text + 1, len < 3 ? len - 1 : 2);
    assert_int_equal(contents_read(file, bytes, 2, len, NULL), 0);
    assert_int_equal(contents_read(file, bytes, 2, (uint64_t)1 << 40, NULL), 0);
}

static void assert_opens(struct volume *volume, const struct known *known, const char *text)
{
    struct contents_file *file;
    assert_int_equal(ahead_open(volume->ahead, known->path, known->dev, known->id, NULL, &file), 0);
    assert_contains(file, text);
    contents_close(file);
}

/* Announces a large file and waits until it is open: what was announced before is
 * done then, or being done. */
static void pass(struct volume *volume, const struct known *large)
{
    assert_true(expect(volume, large, 100000));
    wait_open(large->path);
}

/* ---- contents_open_many -------------------------------------------------------------- */

static struct contents_want want(const struct known *known)
{
    return (struct contents_want){.path = known->path, .dev = known->dev, .id = known->id};
}

static void test_many_at_once(unused_arg void **state)
{
    struct volume volume;
    volume_begin(&volume, "mkdir -p d/e && echo a >a && echo de >d/e/f && echo dg >d/g &&"
                          " echo d >d/h && echo is >is && head -c 65536 /dev/zero >small &&"
                          " head -c 65537 /dev/zero >large && ln -s a link && ln -s d/e way");
    struct known a = know(&volume, "a"), f = know(&volume, "d/e/f"), g = know(&volume, "d/g"),
                 h = know(&volume, "d/h"), is = know(&volume, "is"), e = know(&volume, "d/e"),
                 link = know(&volume, "link"), small = know(&volume, "small"),
                 large = know(&volume, "large");
    struct contents_want wants[] = {want(&a), want(&f),     want(&g),    want(&h),     want(&is),
                                    want(&e), want(&small), want(&link), want(&large), want(&f),
                                    want(&f), want(&f),     want(&a)};
    wants[3].id++;
    wants[9].path = "d/none";
    wants[10].path = "way/f";
    wants[11].path = "a/f";
    wants[12].path = "../tree/a";
    size_t before = count_fds("");
    contents_open_many(volume.contents, wants, 13, NULL);
    assert_int_equal(count_fds(""), before + 1); /* that of the large one */
    const int results[] = {0, 0, 0, -ESTALE, 0, -ESTALE, 0, -ELOOP, 0, -ENOENT};
    for (size_t i = 0; i < 10; i++)
        assert_int_equal(wants[i].result, results[i] == -ELOOP ? wants[i].result : results[i]);
    assert_true(wants[7].result == -ELOOP || wants[7].result == -ESTALE);
    assert_true(wants[10].result == -ELOOP || wants[10].result == -ENOTDIR);
    assert_int_equal(wants[11].result, -ENOTDIR);
    assert_int_equal(wants[12].result, -EXDEV);
    assert_contains(wants[0].file, "a\n");
    assert_contains(wants[1].file, "de\n");
    assert_contains(wants[2].file, "dg\n");
    assert_contains(wants[4].file, "is\n");
    for (size_t i = 6; i < 9; i += 2) { /* in memory or not, it is the same to ask */
        int64_t size = i == 6 ? 65536 : 65537;
        assert_int_equal(contents_seek(wants[i].file, 5, SEEK_DATA, NULL), 5);
        assert_int_equal(contents_seek(wants[i].file, 5, SEEK_HOLE, NULL), size);
        assert_int_equal(contents_seek(wants[i].file, (uint64_t)size, SEEK_HOLE, NULL), -ENXIO);
        assert_int_equal(contents_seek(wants[i].file, (uint64_t)size, SEEK_DATA, NULL), -ENXIO);
    }
    for (size_t i = 0; i < 13; i++) {
        assert_true((wants[i].result == 0) == (wants[i].file != NULL));
        if (wants[i].file)
            contents_close(wants[i].file);
    }
    volume_end(&volume);
}

static void test_many_given_up(unused_arg void **state)
{
    struct volume volume;
    volume_begin(&volume, "echo a >a");
    struct known a = know(&volume, "a");
    struct contents_want wants[] = {want(&a), want(&a)};
    struct cancel *cancel = cancel_new();
    cancel_raise(cancel);
    contents_open_many(volume.contents, wants, 2, cancel);
    cancel_unref(cancel);
    assert_int_equal(wants[0].result, -EINTR);
    assert_int_equal(wants[1].result, -EINTR);
    assert_null(wants[1].file);
    volume_end(&volume);
}

/* ---- reading ahead ---------------------------------------------------------------------- */

/* What was announced is there, whatever has become of the file. */
static void test_announced_files_are_there(unused_arg void **state)
{
    struct volume volume;
    volume_begin(&volume, "echo small >small && echo gone >gone && echo other >other &&"
                          " head -c 100000 /dev/zero >large");
    struct known small = know(&volume, "small"), gone = know(&volume, "gone"),
                 other = know(&volume, "other"), large = know(&volume, "large");
    shell("rm tree/gone && rm tree/other && echo another > tree/other");
    assert_true(expect(&volume, &small, 6));
    assert_true(expect(&volume, &gone, 5));
    assert_true(expect(&volume, &other, 6));
    pass(&volume, &large);
    assert_int_equal(try_open(&volume, &large), 0);
    shell("rm -r tree/*; echo now > tree/gone");
    assert_opens(&volume, &small, "small\n");
    assert_int_equal(try_open(&volume, &small), -ENOENT); /* it was given out */
    assert_int_equal(try_open(&volume, &gone), -ENOENT);
    assert_int_equal(try_open(&volume, &gone), -ESTALE);
    assert_int_equal(try_open(&volume, &other), -ESTALE);
    assert_int_equal(count_fds("large (deleted)"), 0);
    volume_end(&volume);
}

static void test_others_are_opened_as_ever(unused_arg void **state)
{
    struct volume volume;
    volume_begin(&volume, "echo a >a && echo b >b");
    struct known a = know(&volume, "a"), b = know(&volume, "b");
    struct known wrong = b;
    wrong.id++;
    assert_opens(&volume, &a, "a\n");
    assert_true(expect(&volume, &b, 2));
    assert_int_equal(try_open(&volume, &wrong), -ESTALE); /* not that of b */
    assert_opens(&volume, &b, "b\n");
    volume_end(&volume);
}

static struct known unknown(unsigned number)
{
    struct known known = {.dev = 1, .id = number};
    (void)snprintf(known.path, sizeof(known.path), "none-%u", number);
    return known;
}

/* As many as there is room for, and more as they are asked for. */
static size_t fill(struct volume *volume, unsigned from, uint64_t size)
{
    for (unsigned i = 0;; i++) {
        struct known none = unknown(from + i);
        if (!expect(volume, &none, size))
            return i;
    }
}

static void test_room_is_bounded(unused_arg void **state)
{
    const uint64_t sizes[] = {1, 1 + AHEAD_MAX_BYTES / AHEAD_MAX_FILES, CONTENTS_SMALL_BYTES,
                              CONTENTS_SMALL_BYTES + 1};
    const size_t counts[] = {AHEAD_MAX_FILES, AHEAD_MAX_FILES - 1,
                             AHEAD_MAX_BYTES / CONTENTS_SMALL_BYTES, AHEAD_MAX_LARGE};
    for (size_t i = 0; i < 4; i++) {
        struct volume volume;
        volume_begin(&volume, "true");
        assert_int_equal(fill(&volume, 1000, sizes[i]), counts[i]);
        struct known none = unknown(1003);
        assert_int_equal(try_open(&volume, &none), -ENOENT);
        assert_int_equal(fill(&volume, 2000, sizes[i]), 1);
        none = unknown(2000);
        assert_int_equal(try_open(&volume, &none), -ENOENT);
        assert_int_equal(fill(&volume, 3000, sizes[i]), 1);
        volume_end(&volume);
    }
}

/* A reader who went elsewhere does not want it any more. */
static void test_passed_by(unused_arg void **state)
{
    struct volume volume;
    volume_begin(&volume, "head -c 100000 /dev/zero >large");
    struct known large = know(&volume, "large");
    pass(&volume, &large);
    assert_int_equal(fill(&volume, 1000, 1), AHEAD_MAX_FILES - 1);
    struct known none = unknown(5);
    for (int i = 0; i < 10; i++)
        assert_int_equal(try_open(&volume, &none), -ENOENT);
    assert_false(expect(&volume, &none, 1));
    assert_int_equal(count_fds("/large"), 1);
    for (int i = 0; i < 3 * AHEAD_MAX_FILES; i++)
        assert_int_equal(try_open(&volume, &none), -ENOENT);
    while (!expect(&volume, &none, 1)) /* what is being opened cannot go yet */
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    assert_int_equal(count_fds("/large"), 0);
    volume_end(&volume);
}

/* ---- several readers --------------------------------------------------------------------------
 */

#define FILES 2000

struct reader {
    struct volume *volume;
    const struct known *known;
    unsigned seed, step, wrong;
};

static void check_numbered(struct reader *reader, unsigned number)
{
    const struct known *known = &reader->known[number];
    struct contents_file *file;
    char bytes[16] = "";
    int r = ahead_open(reader->volume->ahead, known->path, known->dev, known->id, NULL, &file);
    if (r == 0) {
        ssize_t n = contents_read(file, bytes, sizeof(bytes) - 1, 0, NULL);
        contents_close(file);
        r = n > 0 && (unsigned)atoi(bytes) == number ? 0 : -EIO;
    }
    reader->wrong += r != 0;
}

/* Announces, in its own order, more than it takes, and takes what others announced. */
static void *read_all(void *data)
{
    struct reader *reader = data;
    for (unsigned i = 0; i < FILES; i++) {
        unsigned at = (i * reader->step + reader->seed) % FILES;
        for (unsigned next = 0; next < 3; next++)
            (void)!expect(reader->volume, &reader->known[(at + next * reader->step) % FILES], 5);
        check_numbered(reader, at);
    }
    return NULL;
}

static void test_several_readers(unused_arg void **state)
{
    struct volume volume;
    static struct known known[FILES];
    struct reader readers[4];
    pthread_t threads[4];
    volume_begin(&volume, "for i in $(seq 0 1999); do mkdir -p $((i % 7)); echo $i > $((i % 7))/$i;"
                          " done");
    for (unsigned i = 0; i < FILES; i++) {
        char path[64];
        (void)snprintf(path, sizeof(path), "%u/%u", i % 7, i);
        known[i] = know(&volume, path);
    }
    for (unsigned i = 0; i < 4; i++) {
        readers[i] = (struct reader){&volume, known, i * 100, i % 2 ? 1 : 7, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, read_all, &readers[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(readers[i].wrong, 0);
    }
    volume_end(&volume);
}

/* Ended at any moment of its work: at once, and nothing is left. */
static void test_ended_at_work(unused_arg void **state)
{
    struct volume volume;
    struct known known[300];
    for (unsigned round = 0; round < 20; round++) {
        volume_begin(&volume, "for i in $(seq 100 399); do echo $i > $i; done;"
                              " head -c 100000 /dev/zero >large");
        for (unsigned i = 0; i < 300; i++) {
            char path[16];
            (void)snprintf(path, sizeof(path), "%u", 100 + i);
            known[i] = know(&volume, path);
        }
        struct known large = know(&volume, "large");
        for (unsigned i = 0; i < 300; i++) {
            if (i == 15 * round)
                assert_true(expect(&volume, &large, 100000));
            assert_true(expect(&volume, &known[i], 4));
        }
        if (round % 2)
            wait_open("large");
        volume_end(&volume);
    }
    ahead_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_at_once),
        cmocka_unit_test(test_many_given_up),
        cmocka_unit_test(test_announced_files_are_there),
        cmocka_unit_test(test_others_are_opened_as_ever),
        cmocka_unit_test(test_room_is_bounded),
        cmocka_unit_test(test_passed_by),
        cmocka_unit_test(test_several_readers),
        cmocka_unit_test(test_ended_at_work),
    };
    return cmocka_run_group_tests(tests, enter_tar_test_dir, leave_test_dir);
}
