/* SPDX-License-Identifier: MIT */
#include "scratch.h"

#include "base/buf.h"
#include "base/fd.h"
#include "store/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#define ARCHIVE_BYTES 100000
#define INDEX_BYTES 30000

/* ---- a store of its own for each test ---------------------------------------------- */

static struct store *open_store(const char *dir)
{
    struct fail why = FAIL_INIT;
    struct store *store = NULL;
    int r = store_open(dir, &store, &why);
    if (r < 0)
        fail_msg("%s", fail_text(&why, r));
    return store;
}

/* How many files are in a directory of the test's. */
static int count_files(const char *dir)
{
    int count = 0;
    DIR *stream = opendir(dir);
    if (!stream)
        return 0;
    for (struct dirent *item; (item = readdir(stream));)
        count += strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0;
    (void)closedir(stream);
    return count;
}

/* So many bytes that are told by what they are of. */
static int fill(struct store_new *file, size_t bytes, char of)
{
    cleanup_free char *data = malloc(bytes);
    assert_non_null(data);
    memset(data, of, bytes);
    return fd_pwrite_all(file->fd, data, bytes, 0);
}

static int try_publish(struct store *store, const char *volume, const char *name, char of,
                       struct fail *why)
{
    struct store_new archive cleanup_store_new = STORE_NEW_INIT;
    struct store_new index cleanup_store_new = STORE_NEW_INIT;
    int r = store_new_file(store, &archive, why);
    if (r == 0)
        r = store_new_file(store, &index, why);
    if (r == 0)
        r = fill(&archive, ARCHIVE_BYTES, of);
    if (r == 0)
        r = fill(&index, INDEX_BYTES, of);
    return r < 0 ? r : store_publish(store, volume, name, &archive, &index, why);
}

static void publish(struct store *store, const char *volume, const char *name, char of)
{
    struct fail why = FAIL_INIT;
    int r = try_publish(store, volume, name, of, &why);
    if (r < 0)
        fail_msg("%s/%s: %s", volume, name, fail_text(&why, r));
}

/* Whether all bytes of a file are the same: those. */
static char is_all(int fd, size_t bytes)
{
    char data[ARCHIVE_BYTES + 1];
    ssize_t n = fd_pread_full(fd, data, sizeof(data), 0);
    assert_int_equal(n, bytes);
    for (ssize_t i = 1; i < n; i++)
        assert_int_equal(data[i], data[0]);
    return data[0];
}

/* What a snapshot is of, whose two files must be whole and belong together. */
static char content_of(struct store *store, const char *volume, const char *name)
{
    int fd cleanup_close = store_open_archive(store, volume, name, NULL);
    assert_true(fd >= 0);
    char of = is_all(fd, ARCHIVE_BYTES);
    cleanup_free char *path = store_index_path(store, volume, name);
    assert_non_null(path);
    int index_fd cleanup_close = open(path, O_RDONLY | O_CLOEXEC);
    if (index_fd >= 0)
        assert_int_equal(is_all(index_fd, INDEX_BYTES), of);
    return of;
}

/* ---- names ----------------------------------------------------------------------- */

static void names(void **state)
{
    (void)state;
    char longest[NAME_MAX + 1];
    static const char *const good[] = {"a", "2026-11-22T093000Z", "A_b.c-9",
                                       "0", "a.tar.zst",          "a.index"};
    static const char *const bad[] = {"",    ".",   "..",       ".a", "-a",   "_a",   "a/b", "a b",
                                      "a:b", "a\n", "\xc3\xa4", "a*", "../a", "a\\b", " a"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_true(store_is_name(good[i]));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(store_is_name(bad[i]));
    memset(longest, 'a', sizeof(longest));
    longest[NAME_MAX - strlen(".tar.zst") + 1] = '\0';
    assert_false(store_is_name(longest));
    longest[NAME_MAX - strlen(".tar.zst")] = '\0';
    assert_true(store_is_name(longest));
    struct store *store cleanup_store = open_store("names");
    publish(store, longest, longest, 'n');
    assert_int_equal(content_of(store, longest, longest), 'n');
}

static int count_name(void *data, const char *name)
{
    assert_true(store_is_name(name));
    ++*(int *)data;
    return 0;
}

static void bad_names(void **state)
{
    (void)state;
    struct stat st;
    struct statvfs statvfs;
    int count = 0;
    struct store *store cleanup_store = open_store("bad-names");
    publish(store, "volume", "good", 'g');
    assert_int_equal(try_publish(store, "volume", "../volume/x", 'x', NULL), -EINVAL);
    assert_int_equal(try_publish(store, "../escaped", "x", 'x', NULL), -EINVAL);
    assert_int_equal(try_publish(store, ".new", "x", 'x', NULL), -EINVAL);
    assert_int_equal(store_remove(store, "volume/../volume", "good", NULL), -EINVAL);
    assert_int_equal(store_rename(store, "volume", "good", "a/b", NULL), -EINVAL);
    assert_int_equal(store_stat(store, "volume", ".", &st), -EINVAL);
    assert_int_equal(store_stat(store, "..", "x", &st), -EINVAL);
    assert_int_equal(store_list(store, "..", count_name, &count, NULL), -EINVAL);
    assert_int_equal(store_statvfs(store, &statvfs), 0);
    assert_true(statvfs.f_blocks > 0);
    assert_int_equal(access("escaped", F_OK), -1);
    assert_int_equal(content_of(store, "volume", "good"), 'g');
}

/* ---- what is there ----------------------------------------------------------------- */

static void comes_and_goes(void **state)
{
    (void)state;
    struct stat st;
    struct stat by_path;
    int count = 0;
    struct store *store cleanup_store = open_store("deep/er/come");
    assert_int_equal(store_stat(store, "v", "a", &st), -ENOENT);
    assert_int_equal(store_open_archive(store, "v", "a", NULL), -ENOENT);
    assert_int_equal(store_remove(store, "v", "a", NULL), -ENOENT);
    assert_int_equal(store_list(store, "v", count_name, &count, NULL), 0);
    publish(store, "v", "a", '1');
    assert_int_equal(store_stat(store, "v", "b", &st), -ENOENT);
    assert_int_equal(store_stat(store, "v", "a", &st), 0);
    assert_int_equal(stat("deep/er/come/v/a.tar.zst", &by_path), 0);
    assert_int_equal(st.st_ino, by_path.st_ino);
    assert_int_equal(st.st_mode, S_IFREG | 0600);
    assert_int_equal(st.st_nlink, 1);
    assert_int_equal(stat("deep/er/come/v/a.index", &by_path), 0);
    assert_int_equal(by_path.st_mode, S_IFREG | 0600);
    assert_int_equal(stat("deep/er/come/v", &by_path), 0);
    assert_int_equal(by_path.st_mode, S_IFDIR | 0700);
    assert_int_equal(count_files("deep/er/come/.new"), 0);
    assert_int_equal(try_publish(store, "v", "a", '2', NULL), -EEXIST);
    assert_int_equal(content_of(store, "v", "a"), '1');
    assert_int_equal(count_files("deep/er/come/.new"), 0);
    publish(store, "v", "b", '2');
    publish(store, "w", "c", '3');
    assert_int_equal(store_list(store, "v", count_name, &count, NULL), 0);
    assert_int_equal(count, 2);
    assert_int_equal(store_remove(store, "v", "a", NULL), 0);
    assert_int_equal(store_remove(store, "v", "a", NULL), -ENOENT);
    assert_int_equal(count_files("deep/er/come/v"), 2);
    publish(store, "v", "a", '4');
    assert_int_equal(content_of(store, "v", "a"), '4');
}

static void removed_while_open(void **state)
{
    (void)state;
    struct store *store cleanup_store = open_store("open");
    publish(store, "v", "a", '1');
    int fd cleanup_close = store_open_archive(store, "v", "a", NULL);
    assert_true(fd >= 0);
    assert_int_equal(store_remove(store, "v", "a", NULL), 0);
    publish(store, "v", "a", '2');
    assert_int_equal(is_all(fd, ARCHIVE_BYTES), '1');
    assert_int_equal(content_of(store, "v", "a"), '2');
}

static void renames(void **state)
{
    (void)state;
    struct stat st;
    struct store *store cleanup_store = open_store("rename");
    publish(store, "v", "a", 'a');
    publish(store, "v", "b", 'b');
    assert_int_equal(store_rename(store, "v", "a", "b", NULL), -EEXIST);
    assert_int_equal(content_of(store, "v", "a"), 'a');
    assert_int_equal(content_of(store, "v", "b"), 'b');
    assert_int_equal(store_rename(store, "v", "a", "c", NULL), 0);
    assert_int_equal(content_of(store, "v", "c"), 'a');
    assert_int_equal(store_stat(store, "v", "a", &st), -ENOENT);
    assert_int_equal(access("rename/v/c.index", F_OK), 0);
    assert_int_equal(store_rename(store, "v", "a", "d", NULL), -ENOENT);
    assert_int_equal(store_rename(store, "w", "a", "d", NULL), -ENOENT);
    /* One without an index does not get a stranger's. */
    assert_int_equal(unlink("rename/v/c.index"), 0);
    assert_int_equal(try_shell("cp rename/v/b.index rename/v/e.index"), 0);
    assert_int_equal(store_rename(store, "v", "c", "e", NULL), 0);
    assert_int_equal(access("rename/v/e.index", F_OK), -1);
    assert_int_equal(count_files("rename/v"), 3);
}

static void index_alone(void **state)
{
    (void)state;
    struct store *store cleanup_store = open_store("index-alone");
    struct store_new index cleanup_store_new = STORE_NEW_INIT;
    publish(store, "v", "a", 'a');
    assert_int_equal(unlink("index-alone/v/a.index"), 0);
    assert_int_equal(store_new_file(store, &index, NULL), 0);
    assert_int_equal(fill(&index, INDEX_BYTES, 'a'), 0);
    assert_int_equal(store_publish_index(store, "v", "none", &index, NULL), -ENOENT);
    assert_int_equal(store_publish_index(store, "w", "a", &index, NULL), -ENOENT);
    assert_int_equal(count_files("index-alone/v"), 1);
    assert_int_equal(store_publish_index(store, "v", "a", &index, NULL), 0);
    assert_int_equal(access("index-alone/v/a.index", F_OK), 0);
    assert_int_equal(content_of(store, "v", "a"), 'a');
    store_new_done(&index);
    assert_int_equal(access("index-alone/v/a.index", F_OK), 0);
    /* And one is replaced. */
    assert_int_equal(store_new_file(store, &index, NULL), 0);
    assert_int_equal(fill(&index, INDEX_BYTES, 'a'), 0);
    assert_int_equal(store_publish_index(store, "v", "a", &index, NULL), 0);
    assert_int_equal(count_files("index-alone/v") + count_files("index-alone/.new"), 2);
}

static void newest(void **state)
{
    (void)state;
    cleanup_free char *name = NULL;
    struct store *store cleanup_store = open_store("newest");
    assert_int_equal(store_newest(store, "v", &name, NULL), -ENOENT);
    assert_int_equal(mkdir("newest/v", 0700), 0);
    assert_int_equal(store_newest(store, "v", &name, NULL), -ENOENT);
    publish(store, "v", "z", 'z');
    publish(store, "v", "a", 'a');
    publish(store, "v", "m", 'm');
    assert_int_equal(try_shell("touch -d @1000000001.5 newest/v/a.tar.zst && "
                               "touch -d @1000000001.4 newest/v/z.tar.zst && "
                               "touch -d @1000000000.9 newest/v/m.tar.zst"),
                     0);
    assert_int_equal(store_newest(store, "v", &name, NULL), 0);
    assert_string_equal(name, "a");
}

static void what_is_no_snapshot(void **state)
{
    (void)state;
    struct stat st;
    int count = 0;
    struct store *store cleanup_store = open_store("no-snapshot");
    publish(store, "v", "real", 'r');
    assert_int_equal(try_shell("cd no-snapshot/v && touch .hidden.tar.zst a.tar 'a b.tar.zst' "
                               ".tar.zst x.index && mkdir dir.tar.zst && mkfifo fifo.tar.zst && "
                               "ln -s real.tar.zst link.tar.zst"),
                     0);
    assert_int_equal(store_list(store, "v", count_name, &count, NULL), 0);
    assert_int_equal(count, 1);
    static const char *const others[] = {"dir", "fifo", "link"};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(store_stat(store, "v", others[i], &st), -ENOENT);
        assert_int_equal(store_open_archive(store, "v", others[i], NULL), -ENOENT);
    }
    /* A volume's directory that leads elsewhere is none. */
    assert_int_equal(mkdir("elsewhere", 0700), 0);
    assert_int_equal(symlink("../elsewhere", "no-snapshot/led"), 0);
    assert_true(try_publish(store, "led", "a", 'a', NULL) < 0);
    assert_true(store_list(store, "led", count_name, &count, NULL) < 0);
    assert_int_equal(count_files("elsewhere"), 0);
    assert_int_equal(count_files("no-snapshot/.new"), 0);
}

/* The working directory may change, as a daemon's does. */
static void other_directory(void **state)
{
    (void)state;
    struct store *store cleanup_store = open_store("other");
    struct store_new file cleanup_store_new = STORE_NEW_INIT;
    assert_int_equal(store_new_file(store, &file, NULL), 0);
    assert_int_equal(chdir("/"), 0);
    publish(store, "v", "a", 'a');
    assert_int_equal(content_of(store, "v", "a"), 'a');
    store_new_done(&file);
    assert_int_equal(chdir(test_dir), 0);
    assert_int_equal(count_files("other/.new"), 0);
}

static void no_store(void **state)
{
    (void)state;
    struct fail why = FAIL_INIT;
    struct store *store = NULL;
    assert_int_equal(try_shell("touch a-file && mkdir linked && ln -s /tmp linked/.new"), 0);
    assert_int_equal(store_open("a-file", &store, &why), -ENOTDIR);
    assert_true(why.text[0] != '\0');
    assert_true(store_open("linked", &store, NULL) < 0);
    assert_null(store);
}

/* ---- what crashes leave -------------------------------------------------------------- */

static void sweeps(void **state)
{
    (void)state;
    struct store_new mine cleanup_store_new = STORE_NEW_INIT;
    struct store *first cleanup_store = open_store("sweep");
    assert_int_equal(store_new_file(first, &mine, NULL), 0);
    assert_int_equal(try_shell("touch sweep/.new/left sweep/.new/over && mkdir sweep/.new/dir"), 0);
    struct store *second cleanup_store = open_store("sweep");
    assert_int_equal(count_files("sweep/.new"), 2); /* mine, and what nobody of us made */
    assert_int_equal(access(mine.path, F_OK), 0);
    assert_int_equal(rmdir("sweep/.new/dir"), 0);
    assert_int_equal(fill(&mine, ARCHIVE_BYTES, 'm'), 0);
    store_new_done(&mine);
    store_new_done(&mine);
    assert_int_equal(count_files("sweep/.new"), 0);
}

/* Many make files while many sweep: nobody's file goes. */
static void *sweep_often(void *data)
{
    for (int i = 0; i < 200; i++) {
        struct store *store cleanup_store = NULL;
        struct fail why = FAIL_INIT;
        if (store_open("races", &store, &why) < 0)
            ++*(int *)data;
    }
    return NULL;
}

static void *make_often(void *data)
{
    struct store *store cleanup_store = NULL;
    if (store_open("races", &store, NULL) < 0)
        ++*(int *)data;
    for (int i = 0; store && i < 1000; i++) {
        struct store_new file cleanup_store_new = STORE_NEW_INIT;
        struct stat st;
        if (store_new_file(store, &file, NULL) < 0 || stat(file.path, &st) < 0 || st.st_nlink != 1)
            ++*(int *)data;
    }
    return NULL;
}

static void sweeps_race(void **state)
{
    (void)state;
    pthread_t threads[4];
    int wrong[4] = {0};
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(
            pthread_create(&threads[i], NULL, i % 2 ? sweep_often : make_often, &wrong[i]), 0);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(wrong[i], 0);
    }
    assert_int_equal(count_files("races/.new"), 0);
}

/* A process that makes snapshots, and removes and renames some, until it is killed; it
 * says when it has begun. */
static _Noreturn void keep_publishing(int begun)
{
    struct store *store = NULL;
    if (store_open("killed", &store, NULL) < 0 || write(begun, "", 1) != 1)
        _exit(1);
    for (unsigned i = 0;; i++) {
        char name[32];
        char other[32];
        (void)snprintf(name, sizeof(name), "s%u", i % 7);
        (void)snprintf(other, sizeof(other), "r%u", i % 5);
        int r = try_publish(store, "v", name, (char)('a' + i % 26), NULL);
        if (r < 0 && r != -EEXIST)
            _exit(2);
        if (i % 3 == 0)
            r = store_remove(store, "v", name, NULL);
        else if (i % 3 == 1 && (r = store_rename(store, "v", name, other, NULL)) == -EEXIST)
            r = store_remove(store, "v", other, NULL);
        if (r < 0 && r != -EEXIST && r != -ENOENT)
            _exit(3);
    }
}

struct checked {
    struct store *store;
    int count;
};

static int check_one(void *data, const char *name)
{
    struct checked *checked = data;
    char of = content_of(checked->store, "v", name);
    assert_true(of >= 'a' && of <= 'z');
    checked->count++;
    return 0;
}

static void killed(void **state)
{
    (void)state;
    int seen = 0;
    for (unsigned i = 0; i < 150; i++) {
        int begun[2];
        char byte;
        int status;
        assert_int_equal(pipe(begun), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
            keep_publishing(begun[1]);
        (void)close(begun[1]);
        assert_int_equal(read(begun[0], &byte, 1), 1);
        (void)close(begun[0]);
        /* Any moment is as good as another: that is what is tried here. */
        (void)poll(NULL, 0, (int)(i * 7 % 23));
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        struct store *store cleanup_store = open_store("killed");
        assert_int_equal(count_files("killed/.new"), 0);
        struct checked checked = {.store = store};
        assert_int_equal(store_list(store, "v", check_one, &checked, NULL), 0);
        seen += checked.count;
    }
    assert_true(seen > 0);
}

/* ---- several at once ------------------------------------------------------------------ */

struct publisher {
    const char *dir;
    char of;
    int won;
    int wrong;
};

static void *publish_many(void *data)
{
    struct publisher *publisher = data;
    struct store *store cleanup_store = NULL;
    if (store_open(publisher->dir, &store, NULL) < 0)
        publisher->wrong++;
    for (int i = 0; store && i < 30; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "s%d", i);
        int r = try_publish(store, "v", name, publisher->of, NULL);
        publisher->won += r == 0;
        publisher->wrong += r != 0 && r != -EEXIST;
    }
    return NULL;
}

static void check_published(const char *dir)
{
    struct store *store cleanup_store = open_store(dir);
    char path[64];
    (void)snprintf(path, sizeof(path), "%s/.new", dir);
    assert_int_equal(count_files(path), 0);
    (void)snprintf(path, sizeof(path), "%s/v", dir);
    assert_int_equal(count_files(path), 60);
    for (int i = 0; i < 30; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "s%d", i);
        char of = content_of(store, "v", name);
        assert_true(of >= 'a' && of < 'a' + 6);
    }
}

static void threads_publish(void **state)
{
    (void)state;
    pthread_t threads[6];
    struct publisher publishers[6];
    int won = 0;
    for (size_t i = 0; i < 6; i++) {
        publishers[i] = (struct publisher){.dir = "threads", .of = (char)('a' + i)};
        assert_int_equal(pthread_create(&threads[i], NULL, publish_many, &publishers[i]), 0);
    }
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(publishers[i].wrong, 0);
        won += publishers[i].won;
    }
    assert_int_equal(won, 30);
    check_published("threads");
}

static void processes_publish(void **state)
{
    (void)state;
    pid_t pids[6];
    int won = 0;
    for (size_t i = 0; i < 6; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0) {
            struct publisher publisher = {.dir = "processes", .of = (char)('a' + i)};
            (void)publish_many(&publisher);
            _exit(publisher.wrong ? 100 : publisher.won);
        }
    }
    for (size_t i = 0; i < 6; i++) {
        int status;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) <= 30);
        won += WEXITSTATUS(status);
    }
    assert_int_equal(won, 30);
    check_published("processes");
}

/* ---- full disks ------------------------------------------------------------------- */

/* A file that leaves just so many bytes of the disk. */
static void leave_room(const char *path, size_t bytes)
{
    struct statvfs fs;
    (void)unlink(path);
    int fd cleanup_close = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && fstatvfs(fd, &fs) == 0);
    size_t room = fs.f_bavail * fs.f_bsize;
    assert_int_equal(posix_fallocate(fd, 0, (off_t)(room - bytes)), 0);
}

static void full_disk(void **state)
{
    (void)state;
    bool succeeded = false;
    assert_int_equal(mkdir("small", 0700), 0);
    if (mount("none", "small", "tmpfs", 0, "size=1m") < 0)
        skip(); /* that takes root */
    for (size_t room = 0; !succeeded && room < 400000; room += 8192) {
        struct fail why = FAIL_INIT;
        struct stat st;
        struct store *store cleanup_store = open_store("small/store");
        leave_room("small/ballast", room);
        int r = try_publish(store, "v", "a", 'a', &why);
        succeeded = r == 0;
        assert_true(r == 0 || r == -ENOSPC);
        assert_int_equal(store_stat(store, "v", "a", &st), succeeded ? 0 : -ENOENT);
        assert_int_equal(count_files("small/store/.new"), 0);
        assert_int_equal(count_files("small/store/v"), succeeded ? 2 : 0);
    }
    assert_true(succeeded);
    /* And a store that cannot even be made: no inodes. */
    assert_int_equal(umount("small"), 0);
    for (int inodes = 2; inodes < 10; inodes++) {
        struct store *store cleanup_store = NULL;
        char options[32];
        (void)snprintf(options, sizeof(options), "nr_inodes=%d", inodes);
        assert_int_equal(mount("none", "small", "tmpfs", 0, options), 0);
        int r = store_open("small/store", &store, NULL);
        assert_true(r == -ENOSPC || r == 0);
        int published = r == 0 ? try_publish(store, "v", "a", 'a', NULL) : r;
        assert_true(published == -ENOSPC || published == 0);
        assert_int_equal(count_files("small/store/.new"), 0);
        assert_int_equal(count_files("small/store/v"), published == 0 ? 2 : 0);
        succeeded = inodes < 9 || published == 0;
        assert_int_equal(umount2("small", MNT_DETACH), 0);
    }
    assert_true(succeeded);
}

/* Where the directory cannot be had in full: a publish that fails at the index leaves
 * nothing. */
static void index_in_the_way(void **state)
{
    (void)state;
    struct fail why = FAIL_INIT;
    struct stat st;
    struct store *store cleanup_store = open_store("in-the-way");
    assert_int_equal(try_shell("mkdir -p in-the-way/v/a.index/full"), 0);
    assert_true(try_publish(store, "v", "a", 'a', &why) < 0);
    assert_true(why.text[0] != '\0');
    assert_int_equal(store_stat(store, "v", "a", &st), -ENOENT);
    assert_int_equal(count_files("in-the-way/.new"), 0);
}

/* ---- sharing blocks ----------------------------------------------------------------- */

static void shared_blocks(void **state)
{
    (void)state;
    assert_int_equal(mkdir("xfs", 0700), 0);
    if (try_shell("truncate -s 400M xfs.img && mkfs.xfs -q -m reflink=1 xfs.img 2>/dev/null && "
                  "mount -o loop xfs.img xfs 2>/dev/null") != 0)
        skip(); /* that takes root, a loop device and xfsprogs */
    struct store *store = open_store("xfs/store");
    unsigned bytes = store_block_bytes(store);
    store_close(store);
    assert_int_equal(count_files("xfs/store/.new"), 0);
    assert_int_equal(try_shell("umount xfs"), 0);
    assert_int_equal(bytes, 4096);
}

static void no_shared_blocks(void **state)
{
    (void)state;
    assert_int_equal(mkdir("tmpfs", 0700), 0);
    if (mount("none", "tmpfs", "tmpfs", 0, "size=1m") < 0)
        skip(); /* that takes root */
    struct store *store = open_store("tmpfs/store");
    assert_int_equal(store_block_bytes(store), 0);
    assert_int_equal(count_files("tmpfs/store/.new"), 0);
    store_close(store);
    assert_int_equal(umount("tmpfs"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(bad_names),
        cmocka_unit_test(comes_and_goes),
        cmocka_unit_test(removed_while_open),
        cmocka_unit_test(renames),
        cmocka_unit_test(index_alone),
        cmocka_unit_test(newest),
        cmocka_unit_test(what_is_no_snapshot),
        cmocka_unit_test(other_directory),
        cmocka_unit_test(no_store),
        cmocka_unit_test(sweeps),
        cmocka_unit_test(sweeps_race),
        cmocka_unit_test(killed),
        cmocka_unit_test(threads_publish),
        cmocka_unit_test(processes_publish),
        cmocka_unit_test(full_disk),
        cmocka_unit_test(index_in_the_way),
        cmocka_unit_test(shared_blocks),
        cmocka_unit_test(no_shared_blocks),
    };
    return cmocka_run_group_tests(tests, enter_test_dir, leave_test_dir);
}
