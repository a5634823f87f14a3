/* SPDX-License-Identifier: MIT */
/* Kept snapshots without an engine: archives that are brought, looked into, and managed. */
#include "scratch.h"

#include "base/fd.h"
#include "job/kept.h"
#include "job/squeeze.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static struct kept *kept;
static struct spool *spool;
static struct log *event_log;
static struct jobs *jobs;

static int set_up(void **state)
{
    if (enter_test_dir(state) < 0)
        return -1;
    event_log = log_new(false);
    jobs = jobs_new();
    return spool_open("spool", &spool, NULL) == 0 &&
                   kept_start(&(struct kept_conf){.spool = spool,
                                                  .log = event_log,
                                                  .jobs = jobs,
                                                  .store = "store",
                                                  .level = 3},
                              &kept, NULL) == 0
               ? 0
               : -1;
}

static int tear_down(void **state)
{
    (void)state;
    kept_stop(kept);
    spool_close(spool);
    jobs_free(jobs);
    log_free(event_log);
    return leave_test_dir(state);
}

/* A tree with one of each kind, and an archive of it made by tar(1). */
static void make_archive(const char *options, const char *name)
{
    assert_int_equal(
        try_shell(
            "rm -rf tree && mkdir -p tree/a/b tree/c && seq 1 300000 >tree/a/numbers && "
            "echo text >tree/a/b/text && ln tree/a/b/text tree/c/link && ln -s ../a tree/c/sym && "
            "mkfifo tree/c/fifo && truncate -s 3M tree/c/hole && "
            "printf end >>tree/c/hole && chmod 711 tree && tar -C tree %s -cf %s .",
            options, name),
        0);
}

static int import(const char *archive, const char *name, struct fail *why)
{
    cleanup_close int fd = open(archive, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    return kept_import(kept, "volume", name, fd, NULL, why);
}

static void must_import(const char *archive, const char *name)
{
    struct fail why = FAIL_INIT;
    int r = import(archive, name, &why);
    if (r < 0)
        fail_msg("%s: %s", archive, fail_text(&why, r));
}

static struct snapshot *must_open(const char *name)
{
    struct snapshot *snapshot = NULL;
    struct fail why = FAIL_INIT;
    int r = kept_open(kept, "volume", name, NULL, &snapshot, &why);
    if (r < 0)
        fail_msg("%s: %s", name, fail_text(&why, r));
    return snapshot;
}

/* ---- looking into them ---------------------------------------------------------------- */

struct seen {
    struct snapshot *snapshot;
    struct index_entry entry; /* but for what it points to */
    struct snapshot_file file;
    char link_target[64];
};

static int see(void *data, const struct index_entry *entry)
{
    struct seen *seen = data;
    seen->entry = *entry;
    (void)snprintf(seen->link_target, sizeof(seen->link_target), "%s", entry->file.link_target);
    return S_ISREG(entry->file.stat.mode)
               ? snapshot_file_open(seen->snapshot, entry, &seen->file, NULL)
               : 0;
}

/* The entry at a path; its file is open if it is one. */
static struct seen find(struct snapshot *snapshot, const char *path)
{
    struct seen seen = {.snapshot = snapshot};
    cleanup_free char *names = strdup(path);
    char *rest = names;
    assert_int_equal(index_get(snapshot_index(snapshot), 0, see, &seen, NULL), 0);
    for (const char *name; (name = strsep(&rest, "/"));)
        assert_int_equal(
            index_find(snapshot_index(snapshot), seen.entry.id, name, see, &seen, NULL), 0);
    return seen;
}

static void check_file(struct snapshot *snapshot, const char *path)
{
    char name[128];
    struct stat st;
    struct seen seen = find(snapshot, path);
    (void)snprintf(name, sizeof(name), "tree/%s", path);
    assert_int_equal(stat(name, &st), 0);
    assert_int_equal(seen.entry.file.stat.size_bytes, st.st_size);
    assert_int_equal(seen.entry.file.stat.mode, st.st_mode);
    assert_int_equal(seen.entry.file.stat.nlink, st.st_nlink);
    assert_int_equal(seen.entry.file.stat.mtime.s, st.st_mtim.tv_sec);
    size_t bytes = (size_t)st.st_size;
    cleanup_free char *own = malloc(bytes + 1);
    cleanup_free char *real = malloc(bytes + 1);
    cleanup_close int fd = open(name, O_RDONLY | O_CLOEXEC);
    assert_true(own && real);
    assert_int_equal(fd_pread_full(fd, real, bytes, 0), bytes);
    assert_int_equal(snapshot_read(snapshot, &seen.file, own, bytes, 0, NULL), bytes);
    assert_memory_equal(own, real, bytes);
    snapshot_file_done(&seen.file);
}

static void check_tree(struct snapshot *snapshot)
{
    struct index_about about;
    snapshot_about(snapshot, &about);
    /* unknown: of one whose index was made again */
    assert_true(strcmp(about.consistency, "imported") == 0 ||
                strcmp(about.consistency, "unknown") == 0);
    struct seen root = find(snapshot, "c");
    assert_int_equal(root.entry.file.stat.nlink, 2);
    assert_int_equal(index_get(snapshot_index(snapshot), 0, see, &root, NULL), 0);
    assert_int_equal(root.entry.file.stat.mode, S_IFDIR | 0711);
    assert_int_equal(root.entry.file.stat.nlink, 4);
    check_file(snapshot, "a/numbers");
    check_file(snapshot, "a/b/text");
    check_file(snapshot, "c/link");
    check_file(snapshot, "c/hole");
    struct seen one = find(snapshot, "a/b/text"), other = find(snapshot, "c/link");
    assert_int_equal(one.entry.target, other.entry.target);
    snapshot_file_done(&one.file);
    snapshot_file_done(&other.file);
    assert_string_equal(find(snapshot, "c/sym").link_target, "../a");
    assert_true(S_ISFIFO(find(snapshot, "c/fifo").entry.file.stat.mode));
}

/* ---- importing -------------------------------------------------------------------------- */

static void archives_of_all_kinds(void **state)
{
    (void)state;
    static const char *const options[][2] = {{"", "x.tar"},
                                             {"-S", "sparse.tar"},
                                             {"--format=gnu -S -z", "x.tar.gz"},
                                             {"--zstd", "x.tar.zst"},
                                             {"-J --format=ustar", "x.tar.xz"},
                                             {"-j -H posix", "x.tar.bz2"}};
    for (size_t i = 0; i < sizeof(options) / sizeof(*options); i++) {
        char name[16];
        (void)snprintf(name, sizeof(name), "kind-%zu", i);
        make_archive(options[i][0], options[i][1]);
        must_import(options[i][1], name);
        struct snapshot *snapshot = must_open(name);
        check_tree(snapshot);
        snapshot_unref(snapshot);
        assert_int_equal(
            try_shell("rm -rf out && mkdir out && zstd -dcq store/volume/%s.tar.zst | "
                      "tar -C out -xf - && diff -r --no-dereference --exclude=fifo tree "
                      "out",
                      name),
            0);
    }
    assert_int_equal(try_shell("test -z \"$(ls -A store/.new)\""), 0);
}

/* What is kept can be brought again. */
static void our_own(void **state)
{
    (void)state;
    make_archive("", "x.tar");
    must_import("x.tar", "one");
    must_import("store/volume/one.tar.zst", "two");
    assert_int_equal(try_shell("zstd -dcq store/volume/one.tar.zst >1; zstd -dcq "
                               "store/volume/two.tar.zst | cmp - 1"),
                     0);
}

static void not_an_archive(void **state)
{
    (void)state;
    struct fail why = FAIL_INIT;
    make_archive("", "x.tar");
    assert_int_equal(
        try_shell("head -c 100000 x.tar >cut.tar; ln -s /etc out; echo x >tree/x; tar -cf "
                  "up.tar -P -C tree x --transform 's,x,../../x,'"),
        0);
    assert_int_equal(import("cut.tar", "cut", &why), -EILSEQ);
    assert_int_equal(import("up.tar", "up", &why), -EPERM);
    assert_int_equal(import("x.tar", ".x", &why), -EINVAL);
    assert_int_equal(import("x.tar", "a/b", &why), -EINVAL);
    must_import("x.tar", "x");
    assert_int_equal(import("x.tar", "x", &why), -EEXIST);
    assert_int_equal(
        try_shell("test -z \"$(ls -A store/.new)\" && test $(ls store/volume | wc -l) = 2"), 0);
}

/* The later member counts, links keep what they led to, directories may lack a member. */
static void members_more_than_once(void **state)
{
    (void)state;
    assert_int_equal(try_shell("mkdir -p tree/d && echo first >tree/f && ln tree/f tree/l && "
                               "echo deep >tree/d/deep && tar -C tree -cf m.tar f l d/deep && "
                               "rm tree/f && echo second >tree/f && tar -C tree -rf m.tar f"),
                     0);
    must_import("m.tar", "m");
    struct snapshot *snapshot = must_open("m");
    check_file(snapshot, "f");
    assert_int_equal(find(snapshot, "d").entry.file.stat.mode, S_IFDIR | 0755);
    struct seen link = find(snapshot, "l");
    char text[16] = "";
    assert_int_equal(snapshot_read(snapshot, &link.file, text, sizeof(text), 0, NULL), 6);
    assert_string_equal(text, "first\n");
    assert_int_equal(link.entry.file.stat.nlink, 1);
    snapshot_file_done(&link.file);
    snapshot_unref(snapshot);
}

/* ---- indexes made again ------------------------------------------------------------------- */

static void without_its_index(void **state)
{
    (void)state;
    make_archive("", "x.tar");
    must_import("x.tar", "x");
    assert_int_equal(try_shell("mv store/volume/x.index index"), 0);
    struct snapshot *snapshot = must_open("x");
    check_tree(snapshot);
    struct index_about about;
    snapshot_about(snapshot, &about);
    snapshot_unref(snapshot);
    char hex[65];
    for (size_t i = 0; i < sizeof(about.sha256); i++)
        (void)snprintf(hex + 2 * i, 3, "%02x", about.sha256[i]);
    assert_int_equal(
        try_shell("echo '%s  store/volume/x.tar.zst' | sha256sum --check --status", hex), 0);
    /* It is the same that was made with the snapshot. */
    assert_int_equal(kept_rename(kept, "volume", "x", "y", NULL), 0);
    assert_int_equal(access("store/volume/y.index", F_OK), 0);
    assert_int_equal(try_shell("head -c 5000 /dev/zero >store/volume/y.index"), 0);
    snapshot = must_open("y");
    check_tree(snapshot);
    snapshot_unref(snapshot);
}

static void put_there_by_hand(void **state)
{
    (void)state;
    make_archive("--zstd", "x.tar.zst");
    assert_int_equal(try_shell("mkdir -p store/volume && cp x.tar.zst store/volume/hand.tar.zst"),
                     0);
    struct snapshot *snapshot;
    struct fail why = FAIL_INIT;
    assert_int_equal(kept_open(kept, "volume", "hand", NULL, &snapshot, &why), -EBADMSG);
    assert_non_null(strstr(why.text, "was not made by dvolfs"));
    assert_int_equal(kept_open(kept, "volume", "none", NULL, &snapshot, &why), -ENOENT);
}

static void *open_main(void *data)
{
    *(struct snapshot **)data = must_open("x");
    return NULL;
}

/* Several at once: it is one, and its index was made once. */
static void opened_at_once(void **state)
{
    (void)state;
    enum { THREADS = 8 };
    pthread_t threads[THREADS];
    struct snapshot *snapshots[THREADS];
    make_archive("", "x.tar");
    must_import("x.tar", "x");
    assert_int_equal(unlink("store/volume/x.index"), 0);
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, open_main, &snapshots[i]), 0);
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (size_t i = 0; i < THREADS; i++) {
        assert_ptr_equal(snapshots[i], snapshots[0]);
        snapshot_unref(snapshots[i]);
    }
}

static void removed_while_open(void **state)
{
    (void)state;
    make_archive("", "x.tar");
    must_import("x.tar", "x");
    struct snapshot *snapshot = must_open("x");
    assert_int_equal(kept_remove(kept, "volume", "x", NULL), 0);
    assert_int_equal(kept_remove(kept, "volume", "x", NULL), -ENOENT);
    check_tree(snapshot);
    must_import("x.tar", "x");
    struct snapshot *other = must_open("x");
    assert_ptr_not_equal(other, snapshot);
    snapshot_unref(other);
    snapshot_unref(snapshot);
    must_import("x.tar", "z");
    assert_int_equal(kept_rename(kept, "volume", "x", "z", NULL), -EEXIST);
    assert_int_equal(kept_rename(kept, "volume", "x", "-z", NULL), -EINVAL);
    assert_int_equal(kept_rename(kept, "volume", "none", "q", NULL), -ENOENT);
}

/* Only what nobody has open any more is closed: no descriptor is left of hundreds. */
static void many_opened(void **state)
{
    (void)state;
    make_archive("", "x.tar");
    must_import("x.tar", "x");
    assert_int_equal(
        try_shell("cd store/volume && for i in $(seq 100); do cp x.tar.zst n$i.tar.zst; "
                  "cp x.index n$i.index; done"),
        0);
    for (unsigned i = 1; i <= 100; i++) {
        char name[16];
        (void)snprintf(name, sizeof(name), "n%u", i);
        snapshot_unref(must_open(name));
    }
    assert_int_equal(try_shell("test $(ls /proc/%d/fd | wc -l) -lt 90", (int)getpid()), 0);
}

/* ---- jobs ------------------------------------------------------------------------------------ */

static void jobs_in_order(void **state)
{
    (void)state;
    struct job one, two, three;
    struct buf text cleanup_buf;
    buf_init(&text, 4096);
    job_begin(&one, jobs, "take", "v", "one");
    job_begin(&two, jobs, "import", "v", "two");
    job_begin(&three, jobs, "index", "w", "three");
    job_set_total(&two, 100);
    assert_int_equal(jobs_print(jobs, &text), 0);
    assert_string_equal(buf_string(&text), "take\tv/one\t0\t-\t-\t-\n"
                                           "import\tv/two\t0\t100\t-\t-\n"
                                           "index\tw/three\t0\t-\t-\t-\n");
    job_end(&two);
    job_end(&three);
    job_begin(&two, jobs, "restore", "v", "two");
    job_add_done(&one, UINT64_C(1) << 40);
    job_set_total(&one, UINT64_C(1) << 40);
    one.begun_ms -= 1000000;
    buf_clear(&text);
    assert_int_equal(jobs_print(jobs, &text), 0);
    unsigned long long rate, left;
    assert_int_equal(sscanf(buf_string(&text),
                            "take\tv/one\t1099511627776\t1099511627776\t%llu\t%llu\n", &rate,
                            &left),
                     2);
    assert_in_range(rate, UINT64_C(1000000000), UINT64_C(1099511628));
    assert_int_equal(left, 0);
    assert_non_null(strstr(buf_string(&text), "\nrestore\tv/two\t0\t-\t-\t-\n"));
    job_end(&one);
    job_end(&two);
    buf_clear(&text);
    assert_int_equal(jobs_print(jobs, &text), 0);
    assert_int_equal(text.len, 0);
}

/* ---- squeezing ---------------------------------------------------------------------------------
 */

static ssize_t read_file(void *data, void *buf, size_t len, uint64_t offset, struct cancel *cancel,
                         struct fail *why)
{
    (void)cancel, (void)why;
    return fd_pread_full(*(int *)data, buf, len, offset);
}

static void squeezed(void **state)
{
    (void)state;
    make_archive("", "x.tar");
    cleanup_close int in = open("x.tar", O_RDONLY | O_CLOEXEC);
    for (int i = 0; i < 2; i++) {
        cleanup_close int out = open("squeezed", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        struct job job cleanup_job;
        uint64_t bytes;
        struct stat st;
        job_begin(&job, jobs, "compress", "v", "now");
        assert_int_equal(squeeze(&(struct squeeze_conf){.is_gzip = i == 0,
                                                        .level = 3,
                                                        .read = read_file,
                                                        .data = &in,
                                                        .job = &job,
                                                        .fd = out},
                                 &bytes, NULL),
                         0);
        assert_int_equal(fstat(out, &st), 0);
        assert_int_equal(bytes, st.st_size);
        assert_int_equal(fstat(in, &st), 0);
        assert_int_equal(job.done_bytes, st.st_size);
        assert_int_equal(try_shell("%s -dc <squeezed | cmp - x.tar", i == 0 ? "gzip" : "zstd"), 0);
    }
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(archives_of_all_kinds),
        TEST(our_own),
        TEST(not_an_archive),
        TEST(members_more_than_once),
        TEST(without_its_index),
        TEST(put_there_by_hand),
        TEST(opened_at_once),
        TEST(removed_while_open),
        TEST(many_opened),
        TEST(jobs_in_order),
        TEST(squeezed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
