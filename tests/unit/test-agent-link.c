/* SPDX-License-Identifier: MIT */
/* src/volume/agent_link.h to real servers. */
#include "test-agent-link.h"

#include "agent/inspect.h"
#include "agent/server.h"

#include <poll.h>
#include <signal.h>
#include <stdatomic.h>

#define SERVER_THREADS 4

/* ---- a real server, and a link to it ------------------------------------------------- */

enum way { BY_SOCKET, BY_STREAM };

static struct agent_server conf;
static pthread_t server_thread, pump_thread;
static int root, pump_link, pump_in, pump_out;

static void *serve(void *arg)
{
    (void)arg;
    int r = agent_serve(&conf);
    if (conf.in != conf.out)
        (void)close(conf.in);
    (void)close(conf.out);
    return (void *)(intptr_t)r;
}

/* As an engine does: what the server says goes in parts with heads; what it is told
 * goes on as it is, and so does its end. */
static void *pump(void *arg)
{
    (void)arg;
    char bytes[5000];
    struct pollfd fds[] = {{.fd = pump_link, .events = POLLIN}, {.fd = pump_out, .events = POLLIN}};
    while (fds[1].fd >= 0) {
        assert_true(poll(fds, 2, -1) > 0);
        if (fds[0].revents) {
            ssize_t n = read(pump_link, bytes, sizeof(bytes));
            if (n > 0)
                assert_int_equal(write(pump_in, bytes, (size_t)n), n);
            else
                fds[0].fd = -1;
            if (n <= 0)
                (void)close(pump_in);
        }
        if (fds[1].revents) {
            ssize_t n = read(pump_out, bytes, sizeof(bytes));
            unsigned char head[8] = {1, 0, 0, 0, 0, 0, (unsigned char)(n >> 8), (unsigned char)n};
            if (n > 0 && send(pump_link, head, sizeof(head), MSG_NOSIGNAL) == sizeof(head))
                (void)!send(pump_link, bytes, (size_t)n, MSG_NOSIGNAL);
            else if (n <= 0)
                fds[1].fd = -1;
        }
    }
    (void)close(pump_out);
    (void)close(pump_link);
    return NULL;
}

static void make_pipes(void)
{
    int to[2], from[2];
    assert_int_equal(pipe2(to, O_CLOEXEC), 0);
    assert_int_equal(pipe2(from, O_CLOEXEC), 0);
    conf.in = to[0];
    pump_in = to[1];
    pump_out = from[0];
    conf.out = from[1];
}

static int set_up(void **state)
{
    bool is_socket = *(const enum way *)*state == BY_SOCKET;
    int pair[2];
    make_top();
    fds_before = count_fds();
    root = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    conf = (struct agent_server){.root = root,
                                 .in = pair[1],
                                 .out = pair[1],
                                 .is_socket = is_socket,
                                 .nonce = NONCE,
                                 .threads = SERVER_THREADS};
    if (!is_socket) {
        pump_link = pair[1];
        make_pipes();
        assert_int_equal(pthread_create(&pump_thread, NULL, pump, NULL), 0);
    }
    assert_int_equal(pthread_create(&server_thread, NULL, serve, NULL), 0);
    assert_int_equal(agent_link_open(pair[0], is_socket, NONCE, NULL, &at, NULL), 0);
    assert_int_equal(agent_link_is_socket(at), is_socket);
    assert_false(agent_link_is_broken(at));
    return 0;
}

/* No descriptor is left, and the server was never told what makes no sense. */
static int tear_down(void **state)
{
    void *result;
    agent_link_unref(at);
    assert_int_equal(pthread_join(server_thread, &result), 0);
    assert_true((intptr_t)result == 0 || (intptr_t)result == -EPIPE ||
                (intptr_t)result == -ECONNRESET);
    if (*(const enum way *)*state == BY_STREAM)
        assert_int_equal(pthread_join(pump_thread, NULL), 0);
    (void)close(root);
    assert_int_equal(count_fds(), fds_before);
    remove_top();
    return 0;
}

static struct file_stat stat_path(const char *path)
{
    struct agent_reply reply cleanup_agent_reply =
        reply_to((struct agent_request){.type = AGENT_STAT, .path = path});
    size_t position = 0;
    struct file file;
    assert_int_equal(file_read(buf_string(&reply.payload), reply.payload.len, &position, &file), 1);
    return file.stat;
}

static struct agent_request to_open(const char *path, uint32_t bytes, uint32_t flags)
{
    struct file_stat st = stat_path(path);
    return (struct agent_request){.type = AGENT_OPEN,
                                  .path = path,
                                  .dev = st.dev,
                                  .identity = file_identity(&st),
                                  .bytes = bytes,
                                  .flags = flags};
}

static unsigned count_records(const struct buf *records)
{
    size_t position = 0;
    struct file file;
    unsigned count = 0;
    while (file_read(buf_string(records), records->len, &position, &file) > 0)
        count++;
    return count;
}

static unsigned count_all(struct agent_request request)
{
    struct agent_reply reply = reply_to(request);
    unsigned count = count_records(&reply.payload);
    uint32_t handle = (uint32_t)reply.result;
    while (!(reply.flags & AGENT_END)) {
        agent_reply_done(&reply);
        reply = reply_to(
            (struct agent_request){.type = AGENT_NEXT, .handle = handle, .bytes = request.bytes});
        count += count_records(&reply.payload);
    }
    agent_reply_done(&reply);
    return count;
}

static void all_kinds_of_requests(void **state)
{
    bool is_socket = *(const enum way *)*state == BY_SOCKET;
    run("mkdir d && cd d && seq -w 1 3000 | xargs touch && printf hello >f && ln f g");
    assert_int_equal(stat_path("d/f").size_bytes, 5);
    assert_int_equal(call((struct agent_request){.type = AGENT_STAT, .path = "no"}), -ENOENT);
    struct agent_request list = {.type = AGENT_LIST, .path = "d", .bytes = 10000};
    assert_int_equal(count_all(list), 3002);
    struct agent_request walk = {.type = AGENT_WALK, .flags = INSPECT_XATTRS, .bytes = 10000};
    assert_int_equal(count_all(walk), 3004);

    struct agent_reply whole cleanup_agent_reply = reply_to(to_open("d/f", 5, 0));
    assert_int_equal(whole.flags, AGENT_WHOLE);
    assert_string_equal(buf_string(&whole.payload), "hello");
    struct agent_reply fd cleanup_agent_reply = reply_to(to_open("d/f", 0, AGENT_WANT_FD));
    assert_int_equal(fd.fd >= 0, is_socket);
    char text[6] = "";
    if (is_socket)
        assert_int_equal(read(fd.fd, text, 5), 5);
    struct agent_reply opened cleanup_agent_reply = reply_to(to_open("d/f", 0, 0));
    uint32_t handle = (uint32_t)opened.result;
    struct agent_request part = {.type = AGENT_READ, .handle = handle, .offset = 1, .bytes = 3};
    struct agent_reply read cleanup_agent_reply = reply_to(part);
    assert_string_equal(buf_string(&read.payload), "ell");
    struct agent_reply seek cleanup_agent_reply =
        reply_to((struct agent_request){.type = AGENT_SEEK, .handle = handle, .whence = SEEK_HOLE});
    assert_memory_equal(seek.payload.data, "\5\0\0\0\0\0\0\0", 8);
    agent_link_close_handle(at, handle);
    assert_int_equal(call(part), -EBADF);
    assert_int_equal(call((struct agent_request){.type = AGENT_SYNC}), 0);
}

static void large_replies(void **state)
{
    (void)state;
    enum { COUNT = 64 };
    run("seq 1 5000000 | head -c 20000000 >f");
    int fd = openat(root, "f", O_RDONLY);
    uint32_t handle = (uint32_t)call(to_open("f", 0, 0));
    struct agent_call calls[COUNT];
    for (uint32_t i = 0; i < COUNT; i++)
        calls[i].request = (struct agent_request){.type = AGENT_READ,
                                                  .handle = handle,
                                                  .offset = i * 300001ULL,
                                                  .bytes = AGENT_MAX_BYTES};
    agent_link_call_many(at, calls, COUNT, NULL);
    static char expected[AGENT_MAX_BYTES];
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_int_equal(calls[i].error, 0);
        ssize_t n = pread(fd, expected, sizeof(expected), (off_t)(i * 300001ULL));
        assert_int_equal(calls[i].reply.payload.len, n);
        assert_memory_equal(calls[i].reply.payload.data, expected, (size_t)n);
        agent_reply_done(&calls[i].reply);
    }
    (void)close(fd);
}

/* ---- many at once ----------------------------------------------------------------------- */

static void *mixed_calls(void *arg)
{
    char path[16];
    unsigned number = (unsigned)(uintptr_t)arg % 100;
    (void)snprintf(path, sizeof(path), "%u", number);
    for (unsigned i = 0; i < 15; i++) {
        assert_int_equal(stat_path(path).size_bytes, number);
        struct agent_reply reply cleanup_agent_reply =
            reply_to(to_open(path, i % 3 ? 1000 : 0, AGENT_WANT_FD));
        if (reply.flags & AGENT_WHOLE)
            assert_int_equal(reply.payload.len, number);
        if (reply.result > 0)
            agent_link_close_handle(at, (uint32_t)reply.result);
    }
    return NULL;
}

static void hundreds_of_threads(void **state)
{
    (void)state;
    enum { THREADS = 200 };
    pthread_t threads[THREADS];
    run("for i in $(seq 0 99); do head -c $i /dev/zero >$i; done");
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, mixed_calls, (void *)i), 0);
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
}

static void *three_thousand(void *arg)
{
    enum { COUNT = 3000 };
    struct agent_call *calls = calloc(COUNT, sizeof(*calls));
    assert_non_null(calls);
    for (size_t i = 0; i < COUNT; i++)
        calls[i].request =
            (struct agent_request){.type = AGENT_STAT, .path = i % 2 ? "f" : (const char *)arg};
    agent_link_call_many(at, calls, COUNT, NULL);
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(calls[i].error, 0);
        assert_int_equal(calls[i].reply.result, i % 2 ? 0 : -ENOENT);
        agent_reply_done(&calls[i].reply);
    }
    free(calls);
    return NULL;
}

static void more_calls_than_slots(void **state)
{
    (void)state;
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    char missing[] = "missing";
    run("touch f");
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, three_thousand, missing), 0);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
}

/* ---- giving up ---------------------------------------------------------------------------- */

static struct agent_request to_open_large;
static atomic_uint given_up;

static void *opens_and_gives_up(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < 100; i++) {
        struct cancel *cancel cleanup_cancel = cancel_new();
        pthread_t raiser;
        assert_int_equal(pthread_create(&raiser, NULL, raise_it, cancel), 0);
        struct agent_call calls[20];
        for (unsigned n = 0; n < 20; n++)
            calls[n].request = to_open_large;
        agent_link_call_many(at, calls, 20, cancel);
        for (unsigned n = 0; n < 20; n++) {
            if (calls[n].error) {
                assert_int_equal(calls[n].error, -EINTR);
                atomic_fetch_add(&given_up, 1);
                continue;
            }
            if (calls[n].reply.result > 0)
                agent_link_close_handle(at, (uint32_t)calls[n].reply.result);
            agent_reply_done(&calls[n].reply);
        }
        assert_int_equal(pthread_join(raiser, NULL), 0);
    }
    return NULL;
}

/* What is opened for nobody is closed: all handles there are can be had afterwards. */
static void what_was_given_up_leaves_nothing(void **state)
{
    (void)state;
    enum { THREADS = 8 };
    pthread_t threads[THREADS];
    run("echo x >f");
    given_up = 0;
    for (uint32_t flags = 0; flags <= AGENT_WANT_FD; flags++) {
        to_open_large = to_open("f", 0, flags);
        for (int i = 0; i < THREADS; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, opens_and_gives_up, NULL), 0);
        for (int i = 0; i < THREADS; i++)
            assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    assert_true(given_up > 0);
    to_open_large.flags = 0;
    time_t end = now_s() + PATIENCE_S;
    for (int i = 0; i < AGENT_MAX_HANDLES;) {
        int r = call(to_open_large);
        assert_true(r > 0 || (r == -EMFILE && now_s() < end));
        i += r > 0;
    }
    assert_int_equal(call(to_open_large), -EMFILE);
}

int main(void)
{
    static enum way by_socket = BY_SOCKET, by_stream = BY_STREAM;
#define BOTH(test)                                                                                 \
    {#test " by socket", test, set_up, tear_down, &by_socket},                                     \
    {                                                                                              \
#test " by stream", test, set_up, tear_down, &by_stream                                    \
    }
    const struct CMUnitTest tests[] = {
        BOTH(all_kinds_of_requests),
        BOTH(large_replies),
        BOTH(hundreds_of_threads),
        BOTH(more_calls_than_slots),
        BOTH(what_was_given_up_leaves_nothing),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    raise_nofile();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
