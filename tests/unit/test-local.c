/* SPDX-License-Identifier: MIT */
/* Opening files of a volume's own directory: one by one, and many through a mount of our
 * own. */
#include "check.h"

#include "scratch.h"

#include "agent/inspect.h"
#include "base/fd.h"
#include "volume/local.h"
#include "volume/nodev_mount.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>

/* A file as it was. */
struct known {
    const char *path;
    uint64_t dev, id;
};

static struct contents *open_tree_contents(void)
{
    int root = open("tree", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(root >= 0);
    struct contents *contents = local_contents_at(root);
    assert_non_null(contents);
    return contents;
}

static struct known know(struct contents *contents, const char *path)
{
    struct buf record cleanup_buf;
    struct file file;
    size_t position = 0;
    buf_init(&record, 65536);
    assert_int_equal(contents_stat(contents, path, 0, NULL, &record), 0);
    assert_int_equal(file_read(record.data, record.len, &position, &file), 1);
    return (struct known){.path = path, .dev = file.stat.dev, .id = file_identity(&file.stat)};
}

static int read_opened(struct contents_file *file, char text[8])
{
    ssize_t n = contents_read(file, text, 7, 0, NULL);
    text[n < 0 ? 0 : n] = '\0';
    contents_close(file);
    return n < 0 ? (int)n : 0;
}

/* Both ways of opening agree. */
static int try_open(struct contents *contents, const struct known *known, char text[8])
{
    struct contents_file *file;
    struct contents_want want = {.path = known->path, .dev = known->dev, .id = known->id};
    int r = contents_open(contents, known->path, known->dev, known->id, NULL, &file);
    contents_open_many(contents, &want, 1, NULL);
    assert_int_equal(want.result, r);
    if (r < 0)
        return r;
    char again[8];
    r = read_opened(file, text);
    assert_int_equal(read_opened(want.file, again), r);
    assert_string_equal(again, text);
    return r;
}

static int nodev_root(void)
{
    cleanup_close int root = open("tree", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return nodev_mount_of(root);
}

static void nothing_in_a_files_place_is_opened(void **state)
{
    (void)state;
    static const char *const others[] = {"dir", "fifo", "socket", "other", "link"};
    shell("rm -rf tree && mkdir tree && cd tree && printf one >file && ln file same && "
          "printf two >other && mkdir dir && mkfifo fifo && ln -s file link && "
          "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'");
    struct contents *contents cleanup_contents = open_tree_contents();
    struct known known = know(contents, "file");
    char text[8];
    assert_int_equal(try_open(contents, &known, text), 0);
    assert_string_equal(text, "one");
    known.path = "same";
    assert_int_equal(try_open(contents, &known, text), 0);
    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++) {
        known.path = others[i];
        assert_int_equal(try_open(contents, &known, text), -ESTALE);
    }
    known.path = "nothing";
    assert_int_equal(try_open(contents, &known, text), -ENOENT);
    known.path = "../tree/file";
    assert_int_equal(try_open(contents, &known, text), -EXDEV);
}

static void no_device_is_opened(void **state)
{
    (void)state;
    shell("rm -rf tree && mkdir tree && cd tree && printf one >file");
    if (try_shell("mknod tree/device c 5 2 2>/dev/null") != 0)
        skip(); /* that takes root */
    cleanup_close int root = nodev_root();
    if (root == -EPERM)
        skip(); /* so does that */
    assert_true(root >= 0);
    assert_int_equal(openat(root, "device", O_RDONLY | O_NOCTTY | O_CLOEXEC), -1);
    assert_int_equal(errno, EACCES);
    assert_int_equal(openat(root, "file", O_WRONLY | O_CLOEXEC), -1);
    struct contents *contents cleanup_contents = open_tree_contents();
    struct known known = know(contents, "file");
    known.path = "device";
    char text[8];
    assert_int_equal(try_open(contents, &known, text), -ESTALE);
}

/* Neither looked at nor opened, wherever in the path it is. */
static void no_link_is_followed(void **state)
{
    (void)state;
    shell("rm -rf tree outside && mkdir -p tree/dir/below outside/below && "
          "printf one >tree/dir/below/file && ln tree/dir/below/file outside/below/file && "
          "ln -s ../outside tree/out && ln -s dir tree/in");
    struct contents *contents cleanup_contents = open_tree_contents();
    struct known known = know(contents, "dir/below/file");
    char text[8];
    assert_int_equal(try_open(contents, &known, text), 0);
    assert_string_equal(text, "one");
    static const char *const by_links[] = {"in/below/file", "out/below/file"};
    cleanup_close int root = nodev_root();
    for (size_t i = 0; i < sizeof(by_links) / sizeof(*by_links); i++) {
        known.path = by_links[i];
        assert_int_equal(try_open(contents, &known, text), -ELOOP);
        struct file_stat st;
        if (root >= 0) /* that takes root */
            assert_int_equal(inspect_open_quickly(root, known.path, known.dev, known.id, &st),
                             -ELOOP);
        assert_int_equal(root >= 0 && fstatat(root, known.path, &(struct stat){0}, 0) == 0, 0);
    }
}

/* A mount below the volume's directory is seen, and is not kept from being unmounted. */
static void mounts_below_are_followed(void **state)
{
    (void)state;
    shell("rm -rf tree && mkdir -p tree/sub && echo hidden >tree/sub/file");
    struct contents *contents cleanup_contents = open_tree_contents();
    if (mount("none", "tree/sub", "tmpfs", 0, "size=1m") < 0)
        skip(); /* that takes root */
    shell("printf inner >tree/sub/file");
    struct known known = know(contents, "sub/file");
    char text[8];
    assert_int_equal(try_open(contents, &known, text), 0);
    assert_string_equal(text, "inner");
    assert_int_equal(umount("tree/sub"), 0);
    assert_int_equal(try_open(contents, &known, text), -ESTALE);
}

/* Says whether what it prepared is there. */
static void say(int ready, bool is_there)
{
    (void)!write(ready, is_there ? "y" : "n", 1);
}

/* A process that runs until it is killed, or run returns; -1: it could not prepare. */
static pid_t start_process(void (*run)(int ready))
{
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        run(ready[1]);
        _exit(0);
    }
    char answer = 'n';
    assert_int_equal(read(ready[0], &answer, 1), 1);
    (void)close(ready[0]);
    (void)close(ready[1]);
    if (answer == 'y')
        return pid;
    (void)kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    return -1;
}

/* In a mount namespace of its own tree is another file system. */
static void be_elsewhere(int ready)
{
    say(ready, enter_own_mounts() && mount("none", "tree", "tmpfs", 0, "size=1m") == 0 &&
                   try_shell("printf there >tree/file && mknod tree/device c 5 2") == 0);
    (void)pause();
}

static void a_directory_of_another_namespace(void **state)
{
    (void)state;
    char path[PATH_MAX], before[64] = "", after[64] = "", text[8];
    shell("rm -rf tree && mkdir tree && printf here >tree/file");
    pid_t pid = start_process(be_elsewhere);
    if (pid < 0)
        skip(); /* that takes root */
    cleanup_free char *here = realpath("tree", NULL);
    (void)snprintf(path, sizeof(path), "/proc/%d/root%s", (int)pid, here);
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(dir >= 0);
    assert_int_equal(nodev_mount_of(dir), -EINVAL);
    assert_true(readlink("/proc/self/ns/mnt", before, sizeof(before) - 1) > 0);
    cleanup_close int root = nodev_mount_within(dir, pid);
    assert_true(root >= 0);
    assert_int_equal(openat(root, "device", O_RDONLY | O_NOCTTY | O_CLOEXEC), -1);
    assert_int_equal(errno, EACCES);
    struct contents *contents cleanup_contents = local_contents_within(dir, pid);
    assert_non_null(contents);
    struct known known = know(contents, "file");
    assert_int_equal(try_open(contents, &known, text), 0);
    assert_string_equal(text, "there");
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(try_open(contents, &known, text), 0); /* it is read on */
    assert_true(readlink("/proc/self/ns/mnt", after, sizeof(after) - 1) > 0);
    assert_string_equal(before, after);
    assert_true(nodev_mount_within(root, pid) < 0); /* there is no such process */
    shell("test $(cat tree/file) = here");
}

static void file_systems_of_this_machine(void **state)
{
    (void)state;
    cleanup_close int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    cleanup_close int memory = open("/dev/shm", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_false(inspect_is_of_this_machine(proc));
    assert_true(inspect_is_of_this_machine(memory));
    assert_false(inspect_is_of_this_machine(-1));
}

/* Has a write lease of tree/file, and gives it back when it is asked to. */
static void hold_lease(int ready)
{
    sigset_t set;
    int number;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGIO);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    int fd = open("tree/file", O_RDONLY | O_CLOEXEC);
    bool has = fd >= 0 && fcntl(fd, F_SETLEASE, F_WRLCK) == 0;
    say(ready, has);
    if (has && sigwait(&set, &number) == 0)
        (void)fcntl(fd, F_SETLEASE, F_UNLCK);
}

struct waker {
    pid_t holder, sleeper;
    atomic_bool begun;
};

/* Has the lease given back once somebody waits for it. */
static void *wake_when_asleep(void *data)
{
    struct waker *waker = data;
    char path[64], state = 'R';
    (void)snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)waker->sleeper);
    while (state == 'R' || !atomic_load(&waker->begun)) {
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        FILE *file = fopen(path, "re");
        if (!file || fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
            state = 'R';
        if (file)
            (void)fclose(file);
    }
    (void)kill(waker->holder, SIGCONT);
    return NULL;
}

static void a_lease_is_waited_for(void **state)
{
    (void)state;
    shell("rm -rf tree && mkdir tree && printf one >tree/file");
    struct contents *contents cleanup_contents = open_tree_contents();
    struct known known = know(contents, "file");
    cleanup_close int root = nodev_root();
    pid_t holder = start_process(hold_lease);
    if (holder < 0 || root < 0) {
        if (holder > 0)
            (void)kill(holder, SIGKILL);
        skip(); /* no leases on this file system, or not root */
    }
    struct file_stat st;
    assert_int_equal(kill(holder, SIGSTOP), 0); /* it gives nothing back */
    assert_int_equal(inspect_open_quickly(root, "file", known.dev, known.id, &st), -EAGAIN);
    struct waker waker = {.holder = holder, .sleeper = gettid()};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, wake_when_asleep, &waker), 0);
    struct contents_want want = {.path = known.path, .dev = known.dev, .id = known.id};
    atomic_store(&waker.begun, true);
    contents_open_many(contents, &want, 1, NULL);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(want.result, 0);
    char text[8];
    assert_int_equal(read_opened(want.file, text), 0);
    assert_string_equal(text, "one");
    assert_int_equal(waitpid(holder, NULL, 0), holder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_in_a_files_place_is_opened),
        cmocka_unit_test(no_device_is_opened),
        cmocka_unit_test(no_link_is_followed),
        cmocka_unit_test(mounts_below_are_followed),
        cmocka_unit_test(a_directory_of_another_namespace),
        cmocka_unit_test(file_systems_of_this_machine),
        cmocka_unit_test(a_lease_is_waited_for),
    };
    return cmocka_run_group_tests(tests, enter_test_dir, leave_test_dir);
}
