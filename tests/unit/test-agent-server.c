/* SPDX-License-Identifier: MIT */
/* src/agent/server.h over a socket and over pipes, to clients sound and hostile. */
#include "test-agent.h"

#include "agent/beneath.h"
#include "agent/inspect.h"
#include "agent/output.h"
#include "agent/server.h"

#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>

#define THREADS 4
/* A test that takes longer, even under valgrind, waits for what does not come. */
#define STUCK_SECONDS 120

/* ---- a server in a thread -------------------------------------------------------- */

enum way { BY_SOCKET, BY_PIPES };

static int root;
static struct client client;
static struct agent_server conf;
static pthread_t thread;
static bool is_joined;
static pid_t racer; /* a process that changes the directory meanwhile; 0: none */

static void *serve(void *arg)
{
    (void)arg;
    int r = agent_serve(&conf);
    if (conf.in != conf.out)
        (void)close(conf.in);
    (void)close(conf.out);
    return (void *)(intptr_t)r;
}

/* What the server ended with, by itself or because nothing more is sent. */
static int end_of_server(void)
{
    void *result;
    assert_int_equal(pthread_join(thread, &result), 0);
    is_joined = true;
    return (int)(intptr_t)result;
}

static int set_up(void **state)
{
    (void)alarm(STUCK_SECONDS);
    make_top();
    root = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(root >= 0);
    int to[2], from[2];
    bool is_socket = *(const enum way *)*state == BY_SOCKET;
    if (is_socket) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, to), 0);
        from[0] = to[1];
        from[1] = to[0];
    } else {
        assert_int_equal(pipe2(to, O_CLOEXEC), 0);
        assert_int_equal(pipe2(from, O_CLOEXEC), 0);
    }
    client_init(&client, from[0], to[1]);
    conf = (struct agent_server){.root = root,
                                 .in = to[0],
                                 .out = from[1],
                                 .is_socket = is_socket,
                                 .nonce = NONCE,
                                 .threads = THREADS};
    is_joined = false;
    assert_int_equal(pthread_create(&thread, NULL, serve, NULL), 0);
    expect_hello(&client);
    return 0;
}

static void end_race(void)
{
    if (racer > 0) {
        (void)kill(racer, SIGKILL);
        (void)waitpid(racer, NULL, 0);
    }
    racer = 0;
}

static int tear_down(void **state)
{
    (void)state;
    end_race(); /* it has our descriptors too */
    if (!is_joined) {
        expect_end(&client);
        assert_int_equal(end_of_server(), 0);
    }
    client_done(&client);
    (void)close(root);
    remove_top();
    return 0;
}

static int32_t ask_path(uint16_t type, const char *path, uint32_t bytes)
{
    return result_of(&client, (struct agent_request){.type = type, .path = path, .bytes = bytes});
}

static void close_handle(int32_t handle)
{
    (void)send_request(&client,
                       (struct agent_request){.type = AGENT_CLOSE, .handle = (uint32_t)handle});
}

/* Adds the names of a reply's records, each and a newline. */
static unsigned add_names(const struct answer *answer, struct buf *names)
{
    size_t position = 0;
    struct file file;
    unsigned count = 0;
    while (file_read(answer->payload, answer->frame.bytes, &position, &file) == 1) {
        assert_int_equal(buf_printf(names, "%s\n", file.name), 0);
        count++;
    }
    assert_int_equal(position, answer->frame.bytes);
    return count;
}

/* All names of a listing or walk; how many replies it took. */
static unsigned collect(struct agent_request request, struct buf *names)
{
    buf_init(names, (size_t)64 << 20);
    int32_t handle = 0;
    for (unsigned replies = 1;; replies++) {
        struct answer answer cleanup_answer = ask(&client, request);
        assert_true(answer.frame.result >= 0);
        (void)add_names(&answer, names);
        if (answer.frame.flags & AGENT_END) {
            assert_int_equal(answer.frame.result, 0);
            return replies;
        }
        if (replies == 1)
            handle = answer.frame.result;
        assert_true(handle > 0);
        request = (struct agent_request){
            .type = AGENT_NEXT, .handle = (uint32_t)handle, .bytes = request.bytes};
    }
}

/* ---- what is there ----------------------------------------------------------------- */

static void a_file_is_told_as_it_is(void **state)
{
    (void)state;
    run("mkdir d && printf hello >d/f && truncate -s 1M d/hole && ln -s nowhere d/l");
    static const char *const paths[] = {"", "d", "d/f", "d/hole", "d/l"};
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        unsigned flags = i % 2 ? INSPECT_EXTENTS : INSPECT_XATTRS | INSPECT_EXTENTS;
        struct buf expected cleanup_buf;
        buf_init(&expected, 1 << 20);
        assert_int_equal(inspect_file(root, paths[i], "", flags, &expected), 0);
        buf_clear(&expected); /* reading a link may have left a time of access */
        assert_int_equal(inspect_file(root, paths[i], "", flags, &expected), 0);
        struct answer answer cleanup_answer = ask(
            &client, (struct agent_request){.type = AGENT_STAT, .path = paths[i], .flags = flags});
        assert_int_equal(answer.frame.result, 0);
        assert_int_equal(answer.frame.flags, 0);
        assert_int_equal(answer.frame.bytes, expected.len);
        assert_memory_equal(answer.payload, expected.data, expected.len);
    }
    assert_int_equal(ask_path(AGENT_STAT, "nothing", 0), -ENOENT);
    assert_int_equal(ask_path(AGENT_STAT, "d/f/g", 0), -ENOTDIR);
}

static void a_small_directory_comes_with_one_reply(void **state)
{
    (void)state;
    run("mkdir empty d && touch d/b d/a 'd/a b'");
    struct buf names cleanup_buf;
    struct agent_request request = {.type = AGENT_LIST, .path = "d", .bytes = 65536};
    assert_int_equal(collect(request, &names), 1);
    assert_string_equal(buf_string(&names), "a\na b\nb\n");
    request.path = "empty";
    struct answer answer cleanup_answer = ask(&client, request);
    assert_int_equal(answer.frame.result, 0);
    assert_int_equal(answer.frame.flags, AGENT_END);
    assert_int_equal(answer.frame.bytes, 0);
    assert_int_equal(ask_path(AGENT_LIST, "d/a", 65536), -ENOTDIR);
    assert_int_equal(ask_path(AGENT_LIST, "nothing", 65536), -ENOENT);
}

static void a_large_directory_comes_in_order_and_in_pieces(void **state)
{
    (void)state;
    run("mkdir d && cd d && seq -w 1 20000 | xargs touch");
    struct buf names cleanup_buf;
    struct agent_request request = {.type = AGENT_LIST, .path = "d", .bytes = 65536};
    unsigned replies = collect(request, &names);
    assert_true(replies > 20 && replies < 60);
    const char *at = buf_string(&names);
    for (unsigned i = 1; i <= 20000; i++, at += 6) {
        char expected[16];
        (void)snprintf(expected, sizeof(expected), "%05u\n", i);
        assert_memory_equal(at, expected, 6);
    }
    assert_string_equal(at, "");
}

static void a_walk_tells_the_whole_tree(void **state)
{
    (void)state;
    run("mkdir -p b/x a/z && touch b/x/1 b/y a/z/2 c");
    static const char expected[] = "\na\na/z\na/z/2\nb\nb/x\nb/x/1\nb/y\nc\n";
    struct buf names cleanup_buf;
    struct agent_request request = {
        .type = AGENT_WALK, .bytes = 1 << 20, .flags = INSPECT_XATTRS | INSPECT_EXTENTS};
    assert_int_equal(collect(request, &names), 1);
    assert_string_equal(buf_string(&names), expected);
    struct buf pieces cleanup_buf;
    request.bytes = 1;
    assert_true(collect(request, &pieces) > 8);
    assert_string_equal(buf_string(&pieces), expected);
}

/* The soft limit of descriptors, so that a server in this process can open nothing. */
static rlim_t limit_nofile(rlim_t limit)
{
    struct rlimit files;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
    rlim_t before = files.rlim_cur;
    files.rlim_cur = limit;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
    return before;
}

static void a_walk_that_fails_says_where(void **state)
{
    (void)state;
    run("mkdir -p a/deep && touch a/deep/1 a/deep/2");
    struct agent_request request = {.type = AGENT_WALK, .bytes = 1};
    int32_t handle = result_of(&client, request);
    assert_true(handle > 0);
    request = (struct agent_request){.type = AGENT_NEXT, .handle = (uint32_t)handle, .bytes = 1};
    assert_int_equal(result_of(&client, request), 0); /* the root was told, now "a" */
    rlim_t before = limit_nofile(4);
    struct answer answer cleanup_answer = ask(&client, request);
    (void)limit_nofile(before);
    assert_int_equal(answer.frame.result, -EMFILE);
    assert_int_equal(answer.frame.flags, 0);
    assert_string_equal(answer.payload, "a");
    assert_int_equal(result_of(&client, request), -EBADF);
}

/* ---- opening ----------------------------------------------------------------------- */

static void only_the_very_file_is_opened(void **state)
{
    (void)state;
    run("printf one >f && ln f link && mkfifo fifo && mkdir d && ln -s f sym");
    struct agent_request request = open_request(&client, "f", 100, 0);
    assert_int_equal(result_of(&client, request), 0);
    struct agent_request wrong = request;
    wrong.path = "link"; /* another name of it */
    assert_int_equal(result_of(&client, wrong), 0);
    wrong.dev++;
    assert_int_equal(result_of(&client, wrong), -ESTALE);
    wrong = request;
    wrong.identity ^= 1;
    assert_int_equal(result_of(&client, wrong), -ESTALE);
    wrong.dev = wrong.identity = 0; /* is no wildcard */
    assert_int_equal(result_of(&client, wrong), -ESTALE);
    static const char *const others[] = {"fifo", "d", "sym", ""};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        assert_int_equal(result_of(&client, open_request(&client, others[i], 100, 0)), -ESTALE);
    run("printf two >new && mv new f");
    assert_int_equal(result_of(&client, request), -ESTALE);
    run("rm f");
    assert_int_equal(result_of(&client, request), -ENOENT);
}

static void small_files_come_whole(void **state)
{
    (void)state;
    run("printf 12345 >f && : >empty");
    struct answer answer cleanup_answer = ask(&client, open_request(&client, "f", 5, 0));
    assert_int_equal(answer.frame.result, 0);
    assert_int_equal(answer.frame.flags, AGENT_WHOLE);
    assert_int_equal(answer.frame.bytes, 5);
    assert_string_equal(answer.payload, "12345");
    struct answer empty cleanup_answer =
        ask(&client, open_request(&client, "empty", 0, AGENT_WANT_FD));
    assert_int_equal(empty.frame.flags, AGENT_WHOLE);
    assert_int_equal(empty.frame.bytes, 0);
    struct answer larger cleanup_answer = ask(&client, open_request(&client, "f", 4, 0));
    assert_int_equal(larger.frame.flags, 0);
    assert_true(larger.frame.result > 0);
}

static void the_directory_itself_comes_where_that_can_be(void **state)
{
    (void)state;
    struct answer answer cleanup_answer = ask(&client, (struct agent_request){.type = AGENT_ROOT});
    assert_int_equal(answer.frame.result, conf.is_socket ? 0 : -ENOTSUP);
    assert_int_equal(answer.frame.flags, conf.is_socket ? AGENT_DESCRIPTOR : 0);
    assert_int_equal(answer.frame.bytes, 0);
    if (!conf.is_socket)
        return;
    struct stat st, expected;
    assert_int_equal(fstat(answer.fd, &st), 0);
    assert_int_equal(fstat(root, &expected), 0);
    assert_true(st.st_dev == expected.st_dev && st.st_ino == expected.st_ino);
    assert_int_equal(fcntl(answer.fd, F_GETFL) & (O_ACCMODE | O_DIRECTORY | O_PATH), O_DIRECTORY);
}

static void larger_files_come_as_descriptors_where_that_can_be(void **state)
{
    (void)state;
    run("printf 12345 >f");
    struct agent_request request = open_request(&client, "f", 4, AGENT_WANT_FD);
    struct answer answer cleanup_answer = ask(&client, request);
    if (!conf.is_socket) {
        assert_true(answer.frame.result > 0);
        assert_int_equal(answer.frame.flags, 0);
        return;
    }
    assert_int_equal(answer.frame.result, 0);
    assert_int_equal(answer.frame.flags, AGENT_DESCRIPTOR);
    assert_int_equal(answer.frame.bytes, 0);
    struct stat st, expected;
    assert_int_equal(fstat(answer.fd, &st), 0);
    assert_int_equal(fstatat(root, "f", &expected, 0), 0);
    assert_true(st.st_ino == expected.st_ino && st.st_dev == expected.st_dev);
    assert_int_equal(fcntl(answer.fd, F_GETFL) & O_ACCMODE, O_RDONLY);
}

/* Beyond what goes with one message, in whatever order the replies come, and in runs. */
static void descriptors_come_in_the_order_of_their_frames(void **state)
{
    (void)state;
    enum { FILES = 300 };
    run("for i in $(seq 1000 1299); do echo $i >$i; done");
    struct agent_request requests[FILES];
    char paths[FILES][8];
    for (int i = 0; i < FILES; i++) {
        (void)snprintf(paths[i], sizeof(paths[i]), "%d", 1000 + i);
        bool is_one_of_many = i % 100 < 60;
        requests[i] = open_request(&client, paths[i], 0,
                                   AGENT_WANT_FD | (is_one_of_many ? AGENT_ONE_OF_MANY : 0));
    }
    uint32_t first = client.last_id + 1;
    for (int i = 0; i < FILES; i++)
        (void)send_request(&client, requests[i]);
    for (int i = 0; i < FILES; i++) {
        struct answer answer cleanup_answer = receive(&client);
        uint32_t number = answer.frame.id - first;
        assert_true(number < FILES);
        char text[8] = "";
        if (conf.is_socket) {
            assert_int_equal(answer.frame.flags, AGENT_DESCRIPTOR);
            assert_int_equal(read(answer.fd, text, 4), 4);
            assert_string_equal(text, paths[number]);
        } else {
            assert_true(answer.frame.result > 0);
        }
    }
}

static void a_file_that_changes_its_size_is_no_harm(void **state)
{
    (void)state;
    run("printf x >f");
    struct agent_request request = open_request(&client, "f", 4096, 0);
    racer = fork();
    if (racer == 0) {
        char text[8192];
        memset(text, 'x', sizeof(text));
        int fd = openat(root, "f", O_RDWR);
        while (pwrite(fd, text, sizeof(text), 0) > 0 && ftruncate(fd, 10) == 0)
            ;
        _exit(1);
    }
    unsigned whole = 0, large = 0;
    for (int i = 0; i < 3000 || !whole || !large; i++) {
        struct answer answer cleanup_answer = ask(&client, request);
        if (answer.frame.flags & AGENT_WHOLE) {
            whole++;
            assert_int_equal(answer.frame.result, 0);
            assert_true(answer.frame.bytes <= 4096);
            for (size_t at = 0; at < answer.frame.bytes; at++) /* zeros: cut while it is read */
                assert_true(answer.payload[at] == 'x' || answer.payload[at] == '\0');
        } else {
            large++;
            assert_true(answer.frame.result > 0);
            close_handle(answer.frame.result);
        }
    }
    end_race();
}

/* ---- reading ----------------------------------------------------------------------- */

static int32_t open_handle(const char *path)
{
    int32_t handle = result_of(&client, open_request(&client, path, 0, 0));
    assert_true(handle > 0);
    return handle;
}

static struct agent_request read_request(int32_t handle, uint64_t offset, uint32_t bytes)
{
    return (struct agent_request){
        .type = AGENT_READ, .handle = (uint32_t)handle, .offset = offset, .bytes = bytes};
}

static void expect_bytes(int32_t handle, uint64_t offset, uint32_t bytes, const char *expected)
{
    struct answer answer cleanup_answer = ask(&client, read_request(handle, offset, bytes));
    assert_int_equal(answer.frame.result, 0);
    assert_int_equal(answer.frame.bytes, strlen(expected));
    assert_string_equal(answer.payload, expected);
}

static void any_part_of_a_file_is_read(void **state)
{
    (void)state;
    run("printf 0123456789 >f && truncate -s 3M large");
    int32_t handle = open_handle("f");
    expect_bytes(handle, 0, 10, "0123456789");
    expect_bytes(handle, 3, 2, "34");
    expect_bytes(handle, 8, 1 << 20, "89");
    expect_bytes(handle, 10, 5, "");
    expect_bytes(handle, 1ULL << 40, 5, "");
    expect_bytes(handle, 5, 0, "");
    assert_int_equal(result_of(&client, read_request(handle, 1ULL << 63, 5)), -EINVAL);
    assert_int_equal(result_of(&client, read_request(handle, 0, AGENT_MAX_BYTES + 1)), -EINVAL);
    int32_t large = open_handle("large");
    struct answer answer cleanup_answer = ask(&client, read_request(large, 5, AGENT_MAX_BYTES));
    assert_int_equal(answer.frame.bytes, AGENT_MAX_BYTES);
    assert_true(large != handle);
}

static int64_t seek(int32_t handle, uint64_t offset, uint32_t whence)
{
    struct answer answer cleanup_answer = ask(
        &client,
        (struct agent_request){
            .type = AGENT_SEEK, .handle = (uint32_t)handle, .offset = offset, .whence = whence});
    if (answer.frame.result < 0)
        return answer.frame.result;
    uint64_t at;
    assert_int_equal(answer.frame.bytes, sizeof(at));
    memcpy(&at, answer.payload, sizeof(at));
    return (int64_t)le64toh(at);
}

/* By the clock that ctimes are of, before what is stored next; or never, where the file
 * system promises nothing (agent/inspect.h). */
static void the_disk_is_written_and_the_time_told(void **state)
{
    (void)state;
    struct stat st;
    uint64_t moment[2];
    run("echo x >before");
    struct answer answer cleanup_answer =
        ask(&client, (struct agent_request){.type = AGENT_SYNC, .path = ""});
    assert_int_equal(answer.frame.result, 0);
    assert_int_equal(answer.frame.bytes, sizeof(moment));
    memcpy(moment, answer.payload, sizeof(moment));
    int64_t s = (int64_t)le64toh(moment[0]);
    int64_t ns = (int64_t)le64toh(moment[1]);
    run("echo x >after");
    assert_int_equal(fstatat(root, "after", &st, 0), 0);
    assert_true(s < st.st_ctim.tv_sec || (s == st.st_ctim.tv_sec && ns <= st.st_ctim.tv_nsec));
    assert_int_equal(fstatat(root, "before", &st, 0), 0);
    assert_true(s == INT64_MIN || s + 1 >= st.st_ctim.tv_sec);
}

static void holes_are_found(void **state)
{
    (void)state;
    run("truncate -s 3M f && printf x | dd of=f bs=1 seek=1M conv=notrunc 2>/dev/null");
    int32_t handle = open_handle("f");
    cleanup_close int fd = openat(root, "f", O_RDONLY);
    int64_t data = seek(handle, 0, SEEK_DATA);
    assert_int_equal(data, lseek(fd, 0, SEEK_DATA));
    assert_int_equal(seek(handle, (uint64_t)data, SEEK_HOLE), lseek(fd, data, SEEK_HOLE));
    assert_int_equal(seek(handle, 3 << 20, SEEK_DATA), -ENXIO);
    assert_int_equal(seek(handle, 0, SEEK_SET), -EINVAL);
    assert_int_equal(seek(handle, 0, SEEK_END), -EINVAL);
    assert_int_equal(seek(handle, 0, UINT32_MAX), -EINVAL);
}

/* What is written after it was asked for has no earlier ctime. */
static void the_time_before_later_changes_is_told(void **state)
{
    (void)state;
    struct answer answer cleanup_answer = ask(&client, (struct agent_request){.type = AGENT_SYNC});
    run("printf x >f");
    struct file_stat st = stat_of(&client, "f");
    assert_int_equal(answer.frame.result, 0);
    uint64_t packed[2];
    assert_int_equal(answer.frame.bytes, sizeof(packed));
    memcpy(packed, answer.payload, sizeof(packed));
    int64_t s = (int64_t)le64toh(packed[0]), ns = (int64_t)le64toh(packed[1]);
    assert_true(s < st.ctime.s || (s == st.ctime.s && ns <= st.ctime.ns));
    assert_true(s == INT64_MIN || (s > st.ctime.s - 600 && ns < 1000000000));
}

/* ---- handles ----------------------------------------------------------------------- */

static void a_wrong_handle_is_told(void **state)
{
    (void)state;
    run("mkdir d && touch d/a d/b && printf x >f");
    int32_t file = open_handle("f"), listing = ask_path(AGENT_LIST, "d", 1);
    assert_true(listing > 0);
    struct agent_request next = {.type = AGENT_NEXT, .bytes = 1000, .handle = (uint32_t)file};
    assert_int_equal(result_of(&client, next), -EBADF);
    assert_int_equal(result_of(&client, read_request(listing, 0, 1)), -EBADF);
    assert_int_equal(seek(listing, 0, SEEK_DATA), -EBADF);
    const int32_t wrong[] = {0, 1, 1023, file + 1, listing + 1024, -1, INT32_MIN, INT32_MAX};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        assert_int_equal(result_of(&client, read_request(wrong[i], 0, 1)), -EBADF);
        close_handle(wrong[i]);
    }
    expect_bytes(file, 0, 1, "x"); /* both still are what they were */
    next.handle = (uint32_t)listing;
    assert_int_equal(result_of(&client, next), 0);
    assert_int_equal(result_of(&client, next), -EBADF); /* gone with AGENT_END */
    close_handle(file);
    assert_int_equal(result_of(&client, read_request(file, 0, 1)), -EBADF);
    int32_t again = open_handle("f");
    assert_int_equal(result_of(&client, read_request(file, 0, 1)),
                     -EBADF); /* not its new owner's */
    expect_bytes(again, 0, 1, "x");
}

static void senseless_numbers_are_refused(void **state)
{
    (void)state;
    run("mkdir d && touch d/a d/b && printf x >f");
    static const uint16_t listings[] = {AGENT_LIST, AGENT_WALK};
    for (size_t i = 0; i < 2; i++) {
        struct agent_request request = {.type = listings[i]};
        assert_int_equal(result_of(&client, request), -EINVAL);
        request.bytes = AGENT_MAX_BYTES + 1;
        assert_int_equal(result_of(&client, request), -EINVAL);
        request.bytes = 1;
        request.flags = 4;
        assert_int_equal(result_of(&client, request), -EINVAL);
    }
    struct agent_request stat = {.type = AGENT_STAT, .flags = 1U << 31};
    assert_int_equal(result_of(&client, stat), -EINVAL);
    assert_int_equal(result_of(&client, open_request(&client, "f", AGENT_MAX_BYTES + 1, 0)),
                     -EINVAL);
    assert_int_equal(result_of(&client, open_request(&client, "f", 100, 4)), -EINVAL);
    struct agent_request next = {.type = AGENT_NEXT,
                                 .handle = (uint32_t)ask_path(AGENT_LIST, "d", 1)};
    assert_int_equal(result_of(&client, next), -EINVAL);
    next.bytes = AGENT_MAX_BYTES + 1;
    assert_int_equal(result_of(&client, next), -EINVAL);
    next.bytes = 100; /* which took nothing from it */
    struct answer answer cleanup_answer = ask(&client, next);
    struct buf names cleanup_buf;
    buf_init(&names, 100);
    assert_int_equal(add_names(&answer, &names), 1);
    assert_string_equal(buf_string(&names), "b\n");
}

static void more_than_many_open_files_are_refused(void **state)
{
    (void)state;
    run("printf x >f");
    struct agent_request request = open_request(&client, "f", 0, 0);
    int32_t handles[AGENT_MAX_HANDLES];
    for (int i = 0; i < AGENT_MAX_HANDLES; i++)
        assert_true((handles[i] = result_of(&client, request)) > 0);
    for (int i = AGENT_MAX_HANDLES; i < 2000; i++)
        assert_int_equal(result_of(&client, request), -EMFILE);
    assert_int_equal(ask_path(AGENT_WALK, "", 1), -EMFILE);
    close_handle(handles[500]);
    expect_bytes(open_handle("f"), 0, 1, "x");
    expect_bytes(handles[501], 0, 1, "x");
}

static void closing_waits_for_nobody_and_harms_nobody(void **state)
{
    (void)state;
    run("head -c 100000 /dev/zero >f && mkdir d && cd d && seq 1 500 | xargs touch");
    for (int round = 0; round < 20; round++) {
        int32_t file = open_handle("f"), listing = ask_path(AGENT_LIST, "d", 1);
        assert_true(listing > 0);
        struct agent_request next = {
            .type = AGENT_NEXT, .handle = (uint32_t)listing, .bytes = 1 << 20};
        uint32_t first = client.last_id + 1;
        (void)send_request(&client, next);
        for (int i = 0; i < 30; i++)
            (void)send_request(&client, read_request(file, 0, 100000));
        close_handle(file);
        close_handle(listing);
        (void)send_request(&client, read_request(file, 0, 100000));
        (void)send_request(&client, next);
        for (int i = 0; i < 33; i++) {
            struct answer answer cleanup_answer = receive(&client);
            bool came_late = answer.frame.id > first + 32;
            assert_int_equal(answer.frame.result, came_late ? -EBADF : 0);
            if (answer.frame.type == AGENT_READ)
                assert_int_equal(answer.frame.bytes, came_late ? 0 : 100000);
        }
    }
}

/* ---- many at once ------------------------------------------------------------------ */

enum { MANY = 20000 };

static void *send_many(void *arg)
{
    const int32_t *handle = arg;
    for (uint32_t i = 0; i < MANY; i++) {
        struct agent_request stat = {.type = AGENT_STAT, .path = "f"};
        (void)send_request(&client, i % 2 ? stat : read_request(*handle, i % 10, 1));
    }
    return NULL;
}

static void each_of_many_requests_is_replied_to_once(void **state)
{
    (void)state;
    run("printf 0123456789 >f");
    int32_t handle = open_handle("f");
    static bool seen[MANY];
    memset(seen, 0, sizeof(seen));
    uint32_t first = client.last_id + 1;
    pthread_t sender;
    assert_int_equal(pthread_create(&sender, NULL, send_many, &handle), 0);
    for (int i = 0; i < MANY; i++) {
        struct answer answer cleanup_answer = receive(&client);
        uint32_t number = answer.frame.id - first;
        assert_true(number < MANY && !seen[number]);
        seen[number] = true;
        assert_int_equal(answer.frame.result, 0);
        assert_int_equal(answer.frame.type, number % 2 ? AGENT_STAT : AGENT_READ);
        if (number % 2 == 0)
            assert_int_equal(answer.payload[0], '0' + number % 10);
    }
    assert_int_equal(pthread_join(sender, NULL), 0);
}

static void what_was_asked_before_the_end_is_still_replied_to(void **state)
{
    (void)state;
    run("head -c 100000 /dev/zero >f");
    int32_t handle = open_handle("f");
    uint32_t first = client.last_id + 1;
    for (int i = 0; i < 200; i++)
        (void)send_request(&client, read_request(handle, 0, 100000));
    client_close_out(&client);
    for (int i = 0; i < 200; i++) {
        struct answer answer cleanup_answer = receive(&client);
        assert_true(answer.frame.id >= first);
        assert_int_equal(answer.frame.bytes, 100000);
    }
}

/* ---- what takes long --------------------------------------------------------------- */

/*
 * A file that cannot be opened until the descriptor is closed: a lease holds up
 * whoever tries (fcntl(2), F_SETLEASE), for 45 seconds at most.
 */
static int hold_up(const char *name)
{
    (void)signal(SIGIO, SIG_IGN); /* which tells of them */
    int fd = openat(root, name, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_SETLEASE, F_WRLCK), 0);
    return fd;
}

static void slow_files_do_not_stop_a_stat(void **state)
{
    (void)state;
    run("printf slow >slow && printf quick >quick");
    struct agent_request request = open_request(&client, "slow", 100, 0);
    int lease = hold_up("slow");
    for (int i = 0; i < 10; i++)
        (void)send_request(&client, request);
    for (int i = 0; i < 100; i++)
        assert_int_equal(ask_path(AGENT_STAT, "quick", 0), 0); /* and nothing comes before it */
    (void)close(lease);
    for (int i = 0; i < 10; i++) {
        struct answer answer cleanup_answer = receive(&client);
        assert_int_equal(answer.frame.type, AGENT_OPEN);
        assert_string_equal(answer.payload, "slow");
    }
}

/* In a run of files the reply of one does not wait for the next, which may take long: the
 * daemon takes silence of a minute for the end. */
static void replies_of_a_run_do_not_wait_for_each_other(void **state)
{
    (void)state;
    run("for f in busy slow1 slow2 quick; do printf $f >$f; done");
    struct agent_request requests[] = {
        open_request(&client, "busy", 100, 0),
        open_request(&client, "slow1", 100, AGENT_ONE_OF_MANY),
        open_request(&client, "slow2", 100, AGENT_ONE_OF_MANY),
        open_request(&client, "quick", 100, AGENT_ONE_OF_MANY),
    };
    int busy = hold_up("busy");
    int slow1 = hold_up("slow1");
    int slow2 = hold_up("slow2");
    /* No thread is left, so that the others become a queue, and then runs. */
    for (unsigned i = 0; i < conf.threads; i++)
        (void)send_request(&client, requests[0]);
    uint32_t first = send_request(&client, requests[1]);
    (void)send_request(&client, requests[2]);
    for (int i = 0; i < 60; i++)
        (void)send_request(&client, requests[3]);
    uint32_t last = client.last_id;
    assert_int_equal(ask_path(AGENT_STAT, "quick", 0), 0); /* all have come */
    (void)close(busy);
    (void)close(slow1);
    time_t begun = time(NULL);
    size_t seen = 0;
    for (bool is_told = false; !is_told; seen++) {
        struct answer answer cleanup_answer = receive(&client);
        is_told = answer.frame.id == first;
        assert_int_equal(answer.frame.result, 0);
    }
    assert_true(time(NULL) - begun < 30); /* a lease is taken away after 45 */
    (void)close(slow2);
    for (; seen < conf.threads + last - first + 1; seen++) {
        struct answer answer cleanup_answer = receive(&client);
        assert_int_equal(answer.frame.flags, AGENT_WHOLE);
    }
}

static void a_listing_goes_on_for_one_at_a_time(void **state)
{
    (void)state;
    run("mkdir d && touch d/a && truncate -s 1M d/slow");
    struct agent_request request = {
        .type = AGENT_LIST, .path = "d", .bytes = 1, .flags = INSPECT_EXTENTS};
    int32_t handle = result_of(&client, request);
    assert_true(handle > 0);
    int lease = hold_up("d/slow"); /* extents are told of what was opened */
    request = (struct agent_request){.type = AGENT_NEXT, .handle = (uint32_t)handle, .bytes = 100};
    uint32_t first = send_request(&client, request), second = send_request(&client, request);
    struct answer refused cleanup_answer = receive(&client);
    assert_int_equal(refused.frame.id, second);
    assert_int_equal(refused.frame.result, -EBUSY);
    (void)close(lease);
    struct answer answer cleanup_answer = receive(&client);
    assert_int_equal(answer.frame.id, first);
    assert_int_equal(answer.frame.result, 0);
    struct buf names cleanup_buf;
    buf_init(&names, 100);
    assert_int_equal(add_names(&answer, &names), 1);
    assert_int_equal(result_of(&client, request), 0); /* the refused one took nothing */
}

static atomic_uint added;

static void *add_large(void *arg)
{
    for (int i = 0; i < 16; i++) {
        struct reply *reply = reply_new(1, AGENT_READ);
        assert_non_null(reply);
        assert_int_equal(buf_add_zeros(&reply->payload, (size_t)1 << 20), 0);
        output_add(arg, reply);
        atomic_fetch_add(&added, 1);
    }
    return NULL;
}

/* What was added and not read is never more than the limit, what each thread
 * holds, and what the kernel takes. */
static void a_slow_reader_holds_up_those_who_reply(void **state)
{
    (void)state;
    const unsigned limit = 8 + THREADS + 2;
    struct cancel *broken cleanup_cancel = cancel_new();
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    struct output output;
    output_init(&output, pair[0], true, broken);
    atomic_store(&added, 0);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, add_large, &output), 0);
    while (atomic_load(&added) < 6)
        (void)sched_yield();
    const size_t all = (size_t)THREADS * 16 * ((1 << 20) + AGENT_FRAME_HEAD_BYTES);
    static char chunk[4096];
    for (size_t got = 0; got < all;) {
        assert_true(atomic_load(&added) <= limit + (got >> 20));
        ssize_t n = read(pair[1], chunk, sizeof(chunk));
        assert_true(n > 0);
        got += (size_t)n;
    }
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(output_error(&output), 0);
    output_done(&output);
    (void)close(pair[0]);
    (void)close(pair[1]);
}

/* ---- hostile clients --------------------------------------------------------------- */

static void send_frame(struct agent_frame frame)
{
    struct buf out cleanup_buf;
    buf_init(&out, 4 << 20);
    assert_int_equal(agent_frame_write(&out, &frame), 0);
    send_bytes(&client, out.data, out.len);
}

/* The server ends by itself: more may come at any time. */
static void expect_to_be_left(void)
{
    assert_int_equal(end_of_server(), -EBADMSG);
    assert_int_equal(receive_some(&client, SIZE_MAX), 0);
}

static void an_unknown_type_ends_it(void **state)
{
    (void)state;
    static char payload[41];
    send_frame((struct agent_frame){.type = 77, .payload = payload, .bytes = sizeof(payload)});
    expect_to_be_left();
}

static void a_servers_frame_ends_it(void **state)
{
    (void)state;
    static char payload[41];
    send_frame(
        (struct agent_frame){.type = AGENT_HELLO, .payload = payload, .bytes = sizeof(payload)});
    expect_to_be_left();
}

static void a_giant_length_ends_it_at_once(void **state)
{
    (void)state;
    char head[AGENT_FRAME_HEAD_BYTES];
    const struct agent_frame frame = {.type = AGENT_STAT, .bytes = AGENT_MAX_REQUEST_BYTES + 1};
    agent_frame_head(&frame, head);
    send_bytes(&client, head, sizeof(head));
    expect_to_be_left();
}

static void a_path_without_end_ends_it(void **state)
{
    (void)state;
    static char payload[42];
    payload[41] = 'x';
    send_frame(
        (struct agent_frame){.type = AGENT_STAT, .payload = payload, .bytes = sizeof(payload)});
    expect_to_be_left();
}

static void half_a_request_is_no_request(void **state)
{
    (void)state;
    char head[AGENT_FRAME_HEAD_BYTES];
    const struct agent_frame frame = {.type = AGENT_STAT, .bytes = 41};
    agent_frame_head(&frame, head);
    assert_int_equal(ask_path(AGENT_STAT, "", 0), 0);
    send_bytes(&client, head, sizeof(head));
    client_close_out(&client);
    expect_to_be_left();
}

static void requests_come_in_any_pieces(void **state)
{
    (void)state;
    run("printf x >f");
    struct buf out cleanup_buf;
    buf_init(&out, 2 << 20);
    cleanup_free char *path = calloc(1, 1 << 20);
    memset(path, 'p', (1 << 20) - 1);
    struct agent_request requests[] = {{.id = 1, .type = AGENT_STAT, .path = "f"},
                                       {.id = 2, .type = AGENT_STAT, .path = "none"},
                                       {.id = 3, .type = AGENT_STAT, .path = path}};
    for (int i = 0; i < 3; i++)
        assert_int_equal(agent_request_write(&out, &requests[i]), 0);
    for (size_t i = 0; i < 200; i++)
        send_bytes(&client, out.data + i, 1);
    send_bytes(&client, out.data + 200, out.len - 200);
    static const int32_t results[] = {0, 0, -ENOENT, -ENAMETOOLONG};
    for (int i = 0; i < 3; i++) {
        struct answer answer cleanup_answer = receive(&client);
        assert_true(answer.frame.id >= 1 && answer.frame.id <= 3);
        assert_int_equal(answer.frame.result, results[answer.frame.id]);
    }
}

static void no_path_leads_out(void **state)
{
    (void)state;
    run("mkdir d && ln -s /etc etc && ln -s .. d/up && ln -s / d/top && ln -s /etc/passwd p");
    static const char *const out[] = {"..",
                                      "../",
                                      "../..",
                                      "d/..",
                                      "d/../..",
                                      "d/../../etc/passwd",
                                      "/etc/passwd",
                                      "/",
                                      "//etc",
                                      ".",
                                      "./d",
                                      "d/.",
                                      "d//up",
                                      "d/",
                                      "etc/passwd",
                                      "etc/../d",
                                      "d/up/d",
                                      "d/up/../..",
                                      "d/top/etc/passwd"};
    for (size_t i = 0; i < sizeof(out) / sizeof(out[0]); i++) {
        static const uint16_t types[] = {AGENT_STAT, AGENT_LIST, AGENT_OPEN};
        for (size_t t = 0; t < 3; t++) {
            int32_t r = ask_path(types[t], out[i], 1000);
            if (r != -EXDEV && r != -ELOOP && r != -ENOTDIR)
                fail_msg("type %d of %s: %d", types[t], out[i], r);
        }
    }
    /* A link itself is not followed. */
    assert_true(S_ISLNK(stat_of(&client, "p").mode));
    assert_int_equal(result_of(&client, open_request(&client, "p", 1000, 0)), -ESTALE);
    int32_t r = ask_path(AGENT_LIST, "etc", 1000);
    assert_true(r == -ELOOP || r == -ENOTDIR); /* without openat2(2) */
}

static void swap_for_a_link(void)
{
    racer = fork();
    if (racer == 0) {
        int tree = openat(root, "tree", O_RDONLY | O_DIRECTORY);
        for (;;)
            if (renameat(tree, "dir", tree, "spare") != 0 ||
                renameat(tree, "link", tree, "dir") != 0 ||
                renameat(tree, "dir", tree, "link") != 0 ||
                renameat(tree, "spare", tree, "dir") != 0)
                _exit(1);
    }
}

/* One answer while it happens: whether there was something, all of it inside. */
static bool is_inside(struct agent_request request)
{
    struct answer answer cleanup_answer = ask(&client, request);
    int32_t r = answer.frame.result;
    if (r < 0) {
        assert_true(r == -ELOOP || r == -ENOENT || r == -ENOTDIR || r == -EXDEV || r == -ESTALE);
        return false;
    }
    if (request.type == AGENT_OPEN) {
        assert_string_equal(answer.payload, "inside");
        return true;
    }
    size_t position = 0;
    struct file file;
    while (file_read(answer.payload, answer.frame.bytes, &position, &file) == 1) {
        assert_null(strstr(file.name, "secret"));
        assert_true(file.stat.size_bytes != strlen("outside!"));
    }
    return true;
}

static void a_directory_swapped_for_a_link_leads_nowhere(void **state)
{
    (void)state;
    run("mkdir in out tree && printf inside >in/file && printf outside! >out/file && "
        "printf outside! >out/secret && cp -r in tree/dir && ln -s ../out tree/link");
    const struct agent_request requests[] = {
        {.type = AGENT_STAT, .path = "tree/dir/file"},
        {.type = AGENT_LIST, .path = "tree/dir", .bytes = 65536},
        open_request(&client, "tree/dir/file", 100, 0),
        {.type = AGENT_STAT, .path = "tree/dir/secret"},
    };
    swap_for_a_link();
    unsigned inside = 0, refused = 0;
    for (int i = 0; i < 6000 || !inside || !refused; i++)
        *(is_inside(requests[i % 3]) ? &inside : &refused) += 1;
    for (int i = 0; i < 2000; i++)
        assert_false(is_inside(requests[3]));
    end_race();
}

/* ---- the other side goes ------------------------------------------------------------- */

static void ask_for_much(unsigned count)
{
    run("truncate -s 2M f");
    int32_t handle = open_handle("f");
    for (unsigned i = 0; i < count; i++)
        (void)send_request(&client, read_request(handle, 0, 1 << 20));
    assert_true(receive_some(&client, 1000) > 0);
}

static void a_client_may_vanish_in_the_middle_of_a_reply(void **state)
{
    (void)state;
    ask_for_much(100);
    client_close_in(&client);
    client_close_out(&client);
    if (client.out >= 0)
        (void)close(client.out);
    client.out = -1;
    int r = end_of_server();
    assert_true(r == -EPIPE || r == -ECONNRESET);
}

/* While its other half is still there, so that the input does not end. */
static void a_client_may_stop_listening(void **state)
{
    (void)state;
    ask_for_much(100);
    if (conf.is_socket)
        assert_int_equal(shutdown(client.in, SHUT_RD), 0);
    else
        client_close_in(&client);
    assert_int_equal(end_of_server(), -EPIPE);
}

static void a_client_may_stop_listening_while_it_is_quiet(void **state)
{
    (void)state;
    if (conf.is_socket) /* that way nothing tells of it */
        return;
    client_close_in(&client);
    assert_int_equal(end_of_server(), -EPIPE);
}

int main(void)
{
    (void)signal(SIGPIPE, SIG_IGN);
    raise_nofile();
    static const enum way ways[] = {BY_SOCKET, BY_PIPES};
#define TEST(name)                                                                                 \
    {#name " (socket)", name, set_up, tear_down, (void *)(uintptr_t)&ways[0]},                     \
    {                                                                                              \
#name " (pipes)", name, set_up, tear_down, (void *)(uintptr_t)&ways[1]                     \
    }
    const struct CMUnitTest tests[] = {
        TEST(a_file_is_told_as_it_is),
        TEST(a_small_directory_comes_with_one_reply),
        TEST(a_large_directory_comes_in_order_and_in_pieces),
        TEST(a_walk_tells_the_whole_tree),
        TEST(a_walk_that_fails_says_where),
        TEST(only_the_very_file_is_opened),
        TEST(small_files_come_whole),
        TEST(the_directory_itself_comes_where_that_can_be),
        TEST(larger_files_come_as_descriptors_where_that_can_be),
        TEST(descriptors_come_in_the_order_of_their_frames),
        TEST(a_file_that_changes_its_size_is_no_harm),
        TEST(any_part_of_a_file_is_read),
        TEST(holes_are_found),
        TEST(the_time_before_later_changes_is_told),
        TEST(the_disk_is_written_and_the_time_told),
        TEST(a_wrong_handle_is_told),
        TEST(senseless_numbers_are_refused),
        TEST(more_than_many_open_files_are_refused),
        TEST(closing_waits_for_nobody_and_harms_nobody),
        TEST(each_of_many_requests_is_replied_to_once),
        TEST(what_was_asked_before_the_end_is_still_replied_to),
        TEST(slow_files_do_not_stop_a_stat),
        TEST(replies_of_a_run_do_not_wait_for_each_other),
        TEST(a_listing_goes_on_for_one_at_a_time),
        TEST(a_slow_reader_holds_up_those_who_reply),
        TEST(an_unknown_type_ends_it),
        TEST(a_servers_frame_ends_it),
        TEST(a_giant_length_ends_it_at_once),
        TEST(a_path_without_end_ends_it),
        TEST(half_a_request_is_no_request),
        TEST(requests_come_in_any_pieces),
        TEST(no_path_leads_out),
        TEST(a_directory_swapped_for_a_link_leads_nowhere),
        TEST(a_client_may_vanish_in_the_middle_of_a_reply),
        TEST(a_client_may_stop_listening),
        TEST(a_client_may_stop_listening_while_it_is_quiet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
