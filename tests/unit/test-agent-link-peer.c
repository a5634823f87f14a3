/* SPDX-License-Identifier: MIT */
/* src/volume/agent_link.h to a peer that does what a test says, most of it hostile. */
#include "test-agent-link.h"

#include <poll.h>
#include <signal.h>
#include <stdatomic.h>

static void write_all(int fd, const void *data, size_t len)
{
    const char *rest = data;
    while (len) {
        ssize_t n = send(fd, rest, len, MSG_NOSIGNAL);
        assert_true(n > 0);
        rest += n;
        len -= (size_t)n;
    }
}

static int peer = -1; /* the other end of `at` */

static struct buf frame_of(uint32_t id, uint16_t type, uint16_t flags, int32_t result,
                           const char *payload, size_t bytes)
{
    struct buf out;
    buf_init(&out, (size_t)64 << 20);
    const struct agent_frame frame = {.id = id,
                                      .type = type,
                                      .flags = flags,
                                      .result = result,
                                      .payload = payload,
                                      .bytes = bytes};
    assert_int_equal(agent_frame_write(&out, &frame), 0);
    return out;
}

static void peer_says(uint32_t id, uint16_t type, uint16_t flags, int32_t result,
                      const char *payload)
{
    struct buf frame cleanup_buf = frame_of(id, type, flags, result, payload, strlen(payload));
    write_all(peer, frame.data, frame.len);
}

static void peer_sends(const void *data, size_t len, const int *fds, size_t count)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(253 * sizeof(int))];
    } control = {0};
    struct iovec piece = {(void *)(uintptr_t)data, len};
    struct msghdr message = {.msg_iov = &piece,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    control.head.cmsg_level = SOL_SOCKET;
    control.head.cmsg_type = SCM_RIGHTS;
    control.head.cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(&control.head), fds, count * sizeof(int));
    assert_int_equal(sendmsg(peer, &message, MSG_NOSIGNAL), len);
}

static void read_exactly(void *data, size_t len)
{
    char *to = data;
    while (len) {
        ssize_t n = read(peer, to, len);
        assert_true(n > 0);
        to += n;
        len -= (size_t)n;
    }
}

/* The next request; its path is lost. */
static struct agent_request peer_hears(void)
{
    char head[AGENT_FRAME_HEAD_BYTES];
    read_exactly(head, sizeof(head));
    uint32_t bytes;
    memcpy(&bytes, head, sizeof(bytes));
    assert_true(bytes <= AGENT_MAX_REQUEST_BYTES);
    struct buf whole cleanup_buf;
    buf_init(&whole, sizeof(head) + AGENT_MAX_REQUEST_BYTES);
    assert_int_equal(buf_add(&whole, head, sizeof(head)), 0);
    assert_int_equal(buf_add_zeros(&whole, bytes), 0);
    read_exactly(whole.data + sizeof(head), bytes);
    size_t position = 0;
    struct agent_frame frame;
    struct agent_request request;
    assert_int_equal(
        agent_frame_read(whole.data, whole.len, &position, AGENT_MAX_REQUEST_BYTES, &frame), 1);
    assert_int_equal(agent_request_read(&frame, &request), 0);
    request.path = NULL;
    return request;
}

static void open_to_peer(void)
{
    int pair[2];
    fds_before = count_fds();
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    peer = pair[1];
    peer_says(0, AGENT_HELLO, 0, AGENT_VERSION, NONCE);
    assert_int_equal(agent_link_open(pair[0], true, NONCE, NULL, &at, NULL), 0);
}

static void close_peer(void)
{
    if (peer >= 0)
        (void)close(peer);
    peer = -1;
    agent_link_unref(at);
    assert_int_equal(count_fds(), fds_before);
}

/* ---- first words ---- */

static int open_to_one_that_says(const void *bytes, size_t len)
{
    int pair[2];
    struct agent_link *link = NULL;
    struct fail why = FAIL_INIT;
    unsigned before = count_fds();
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    write_all(pair[1], bytes, len);
    assert_int_equal(shutdown(pair[1], SHUT_WR), 0);
    int r = agent_link_open(pair[0], true, NONCE, NULL, &link, &why);
    assert_int_equal(r < 0, why.text[0] != '\0');
    (void)close(pair[1]);
    agent_link_unref(link);
    assert_int_equal(count_fds(), before);
    return r;
}

static void only_the_right_agent_is_spoken_to(void **state)
{
    (void)state;
    static const char other[] = "0123456789abcdef0123456789abcdee";
    const struct {
        uint32_t id;
        uint16_t type, flags;
        int32_t result;
        const char *nonce;
        size_t bytes;
        int expected;
    } words[] = {
        {0, AGENT_HELLO, 0, AGENT_VERSION, NONCE, 32, 0},
        {0, AGENT_HELLO, 0, AGENT_VERSION + 1, NONCE, 32, -EBADMSG},
        {0, AGENT_HELLO, 0, -EIO, NONCE, 32, -EBADMSG},
        {0, AGENT_HELLO, 0, AGENT_VERSION, other, 32, -EBADMSG},
        {0, AGENT_HELLO, 0, AGENT_VERSION, NONCE, 31, -EBADMSG},
        {0, AGENT_HELLO, 0, AGENT_VERSION, NONCE, 33, -EBADMSG},
        {0, AGENT_HELLO, 0, AGENT_VERSION, "", 0, -EBADMSG},
        {1, AGENT_HELLO, 0, AGENT_VERSION, NONCE, 32, -EBADMSG},
        {1024, AGENT_HELLO, 0, AGENT_VERSION, NONCE, 32, -EBADMSG},
        {0, AGENT_STAT, 0, AGENT_VERSION, NONCE, 32, -EBADMSG},
        {0, AGENT_HELLO, AGENT_DESCRIPTOR, AGENT_VERSION, NONCE, 32, -EBADMSG},
    };
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        struct buf frame cleanup_buf = frame_of(words[i].id, words[i].type, words[i].flags,
                                                words[i].result, words[i].nonce, words[i].bytes);
        assert_int_equal(open_to_one_that_says(frame.data, frame.len), words[i].expected);
    }
    struct buf frame cleanup_buf = frame_of(0, AGENT_HELLO, 0, AGENT_VERSION, NONCE, 32);
    for (size_t len = 0; len < frame.len; len++)
        assert_int_equal(open_to_one_that_says(frame.data, len), -ENOTCONN);
    assert_int_equal(open_to_one_that_says("HTTP/1.1 400 Bad Request\r\n\r\n", 28), -EBADMSG);
}

static void what_it_writes_to_stderr_is_told(void **state)
{
    (void)state;
    static const char said[] = "\2\0\0\0\0\0\0\x16"
                               "exec format error: a.\n"
                               "\1\0\0\0\0\0\0";
    int pair[2];
    struct agent_link *link;
    struct fail why = FAIL_INIT;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    write_all(pair[1], said, sizeof(said) - 1);
    (void)close(pair[1]);
    assert_int_equal(agent_link_open(pair[0], false, NONCE, NULL, &link, &why), -ENOTCONN);
    assert_string_equal(why.text, "the agent says: exec format error: a.");
}

/* ---- one request, and what is said to it ---- */

static int pipe_fds[2], dir_fd, device_fd, regular_fd;

static void say_wrong_id(uint32_t id)
{
    peer_says(id + 1, AGENT_OPEN, AGENT_WHOLE, 0, "");
}

static void say_old_id(uint32_t id)
{
    peer_says(id ^ 1024, AGENT_OPEN, AGENT_WHOLE, 0, "");
}

static void say_wrong_type(uint32_t id)
{
    peer_says(id, AGENT_READ, 0, 0, "");
}

static void say_no_type(uint32_t id)
{
    peer_says(id, 99, 0, 0, "");
}

static void say_hello_again(uint32_t id)
{
    (void)id;
    peer_says(0, AGENT_HELLO, 0, AGENT_VERSION, NONCE);
}

static void say_too_much(uint32_t id)
{
    peer_says(id, AGENT_OPEN, AGENT_WHOLE, 0, "12345678901");
}

static void say_too_long_a_path(uint32_t id)
{
    char *path = malloc(AGENT_MAX_REQUEST_BYTES + 2);
    assert_non_null(path);
    memset(path, 'x', AGENT_MAX_REQUEST_BYTES + 1);
    path[AGENT_MAX_REQUEST_BYTES + 1] = '\0';
    struct buf frame cleanup_buf =
        frame_of(id, AGENT_OPEN, 0, -ENOENT, path, AGENT_MAX_REQUEST_BYTES + 1);
    int flags = fcntl(peer, F_GETFL);
    assert_int_equal(fcntl(peer, F_SETFL, flags & ~O_NONBLOCK), 0);
    write_all(peer, frame.data, frame.len);
    free(path);
}

static void announce_too_much(uint32_t id)
{
    struct buf frame cleanup_buf = frame_of(id, AGENT_OPEN, 0, 0, "", 0);
    memcpy(frame.data, "\1\0\x80\1", 4); /* 24 MiB and a byte */
    write_all(peer, frame.data, frame.len);
}

static void say_garbage(uint32_t id)
{
    (void)id;
    char garbage[1000];
    memset(garbage, 0xa5, sizeof(garbage));
    write_all(peer, garbage, sizeof(garbage));
}

static void say_there_is_a_descriptor(uint32_t id)
{
    peer_says(id, AGENT_OPEN, AGENT_DESCRIPTOR, 0, "");
}

static void hand_on(uint32_t id, uint16_t type, int fd)
{
    struct buf frame cleanup_buf = frame_of(id, type, AGENT_DESCRIPTOR, 0, "", 0);
    peer_sends(frame.data, frame.len, &fd, 1);
}

static void hand_on_a_directory(uint32_t id)
{
    hand_on(id, AGENT_OPEN, dir_fd);
}

static void hand_on_a_device(uint32_t id)
{
    hand_on(id, AGENT_OPEN, device_fd);
}

static void hand_on_a_pipe(uint32_t id)
{
    hand_on(id, AGENT_OPEN, pipe_fds[0]);
}

static void hand_on_a_socket(uint32_t id)
{
    hand_on(id, AGENT_OPEN, peer);
}

static void hand_on_a_file_for_the_root(uint32_t id)
{
    hand_on(id, AGENT_ROOT, regular_fd);
}

static void hand_on_a_pipe_for_the_root(uint32_t id)
{
    hand_on(id, AGENT_ROOT, pipe_fds[0]);
}

static void hand_on_with_another_reply(uint32_t id)
{
    hand_on(id, AGENT_STAT, regular_fd);
}

static void hand_on_hundreds(uint32_t id)
{
    struct buf frame cleanup_buf = frame_of(id, AGENT_OPEN, AGENT_WHOLE, 0, "", 0);
    int fds[200];
    for (size_t i = 0; i < 200; i++)
        fds[i] = regular_fd;
    peer_sends(frame.data, 1, fds, 200);
    peer_sends(frame.data + 1, 1, fds, 200);
}

static void end_at_once(uint32_t id)
{
    (void)id;
    assert_int_equal(shutdown(peer, SHUT_WR), 0);
}

static void end_within_a_reply(uint32_t id)
{
    struct buf frame cleanup_buf = frame_of(id, AGENT_OPEN, AGENT_WHOLE, 0, "12345", 5);
    write_all(peer, frame.data, frame.len - 1);
    assert_int_equal(shutdown(peer, SHUT_WR), 0);
}

static void *answer_once(void *arg)
{
    void (*const *answer)(uint32_t) = arg;
    struct agent_request request = peer_hears();
    assert_true(request.type == AGENT_OPEN || request.type == AGENT_ROOT);
    (*answer)(request.id);
    return NULL;
}

static void what_makes_no_sense_breaks_the_link(void **state)
{
    (void)state;
    const struct {
        void (*answer)(uint32_t id);
        int expected;
        uint16_t asked; /* 0: AGENT_OPEN */
    } tries[] = {
        {say_wrong_id, -EBADMSG},
        {say_old_id, -EBADMSG},
        {say_wrong_type, -EBADMSG},
        {say_no_type, -EBADMSG},
        {say_hello_again, -EBADMSG},
        {say_too_much, -EBADMSG},
        {say_too_long_a_path, -EBADMSG},
        {announce_too_much, -EBADMSG},
        {say_garbage, -EBADMSG},
        {say_there_is_a_descriptor, -EBADMSG},
        {hand_on_a_directory, -EBADMSG},
        {hand_on_a_device, -EBADMSG},
        {hand_on_a_pipe, -EBADMSG},
        {hand_on_a_socket, -EBADMSG},
        {hand_on_a_file_for_the_root, -EBADMSG, AGENT_ROOT},
        {hand_on_a_pipe_for_the_root, -EBADMSG, AGENT_ROOT},
        {hand_on_with_another_reply, -EBADMSG},
        {hand_on_hundreds, -ENOTCONN},
        {end_at_once, -ENOTCONN},
        {end_within_a_reply, -ENOTCONN},
    };
    make_top();
    run("echo x >f");
    assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
    dir_fd = open(top, O_RDONLY | O_CLOEXEC);
    device_fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    regular_fd = openat(dir_fd, "f", O_RDONLY | O_CLOEXEC);
    for (size_t i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
        open_to_peer();
        pthread_t thread;
        void (*answer)(uint32_t) = tries[i].answer;
        assert_int_equal(pthread_create(&thread, NULL, answer_once, &answer), 0);
        struct agent_request request = {.type = tries[i].asked ? tries[i].asked : AGENT_OPEN,
                                        .bytes = 10};
        assert_int_equal(call(request), tries[i].expected);
        assert_true(agent_link_is_broken(at));
        assert_int_equal(call(request), tries[i].expected);
        agent_link_close_handle(at, 5);
        (void)pthread_join(thread, NULL);
        close_peer();
    }
    (void)close(pipe_fds[0]);
    (void)close(pipe_fds[1]);
    (void)close(dir_fd);
    (void)close(device_fd);
    (void)close(regular_fd);
    remove_top();
}

static void *answer_twice(void *arg)
{
    (void)arg;
    struct agent_request request = peer_hears();
    peer_says(request.id, AGENT_STAT, 0, 7, "");
    peer_says(request.id, AGENT_STAT, 0, 8, "");
    return NULL;
}

static void a_reply_is_taken_once(void **state)
{
    (void)state;
    open_to_peer();
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, answer_twice, NULL), 0);
    assert_int_equal(call((struct agent_request){.type = AGENT_STAT}), 7);
    (void)pthread_join(thread, NULL);
    assert_int_equal(call((struct agent_request){.type = AGENT_STAT}), -EBADMSG);
    close_peer();
}

/* ---- what is given up, step by step ---- */

struct late {
    struct agent_request request;
    struct cancel *cancel;
    int result;
};

static void *call_late(void *arg)
{
    struct late *late = arg;
    struct agent_reply reply cleanup_agent_reply = AGENT_REPLY_INIT;
    late->result = agent_link_call(at, &late->request, late->cancel, &reply);
    if (late->result == 0)
        late->result = reply.result;
    return NULL;
}

/* A call that is given up once the peer has it: the id it had. */
static uint32_t give_up_one(uint16_t type)
{
    struct late late = {.request = {.type = type, .bytes = 10}, .cancel = cancel_new()};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, call_late, &late), 0);
    struct agent_request request = peer_hears();
    cancel_raise(late.cancel);
    (void)pthread_join(thread, NULL);
    assert_int_equal(late.result, -EINTR);
    cancel_unref(late.cancel);
    return request.id;
}

static void begin_call(struct late *late, pthread_t *thread)
{
    assert_int_equal(pthread_create(thread, NULL, call_late, late), 0);
}

/* Its reply comes when another call is under way, which gets its own. */
static void late_replies_are_dropped(void **state)
{
    (void)state;
    static const uint16_t types[] = {AGENT_OPEN, AGENT_LIST, AGENT_WALK, AGENT_STAT};
    make_top();
    run("echo x >f");
    open_to_peer();
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        uint32_t id = give_up_one(types[i]);
        struct late late = {.request = {.type = types[i], .bytes = 10}};
        pthread_t thread;
        begin_call(&late, &thread);
        struct agent_request request = peer_hears();
        assert_true(request.id != id);
        peer_says(id, types[i], 0, 1000 + (int)i, "x");
        if (types[i] != AGENT_STAT) {
            struct agent_request closes = peer_hears();
            assert_int_equal(closes.type, AGENT_CLOSE);
            assert_int_equal(closes.handle, 1000 + i);
        }
        peer_says(request.id, types[i], 0, 5, "");
        (void)pthread_join(thread, NULL);
        assert_int_equal(late.result, 5);
    }
    uint32_t id = give_up_one(AGENT_OPEN);
    regular_fd = open(top, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    hand_on(id, AGENT_OPEN, regular_fd);
    (void)close(regular_fd);
    (void)give_up_one(AGENT_STAT); /* takes what has come before it waits */
    struct late none = {.request = {.type = AGENT_STAT}, .cancel = cancel_new()};
    cancel_raise(none.cancel);
    (void)call_late(&none);
    assert_int_equal(none.result, -EINTR);
    cancel_unref(none.cancel);
    assert_false(agent_link_is_broken(at));
    close_peer();
    remove_top();
}

/* They wait for a slot, can give that up, and go on when one comes free. */
static void all_slots_are_of_those_who_gave_up(void **state)
{
    (void)state;
    open_to_peer();
    static uint32_t ids[SLOTS];
    for (int i = 0; i < SLOTS; i++)
        ids[i] = give_up_one(AGENT_STAT);
    struct late late = {.request = {.type = AGENT_STAT}, .cancel = cancel_new()};
    pthread_t thread, other;
    begin_call(&late, &thread);
    struct late second = {.request = {.type = AGENT_STAT}};
    begin_call(&second, &other);
    cancel_raise(late.cancel);
    (void)pthread_join(thread, NULL);
    assert_int_equal(late.result, -EINTR);
    cancel_unref(late.cancel);
    peer_says(ids[500], AGENT_STAT, 0, 0, "");
    struct agent_request request = peer_hears();
    peer_says(request.id, AGENT_STAT, 0, 3, "");
    (void)pthread_join(other, NULL);
    assert_int_equal(second.result, 3);
    for (int i = 0; i < SLOTS; i++)
        if (i != 500)
            assert_true(ids[i] != ids[500]);
    close_peer();
}

static void *hear_until(void *arg)
{
    unsigned *count = arg;
    for (; *count; --*count) {
        struct agent_request request = peer_hears();
        peer_says(request.id, AGENT_STAT, 0, 0, "");
    }
    return NULL;
}

/* Requests are sent as the peer takes them, and wait meanwhile, however long. */
static void a_peer_that_does_not_listen(void **state)
{
    (void)state;
    enum { COUNT = 40 };
    char *path = calloc(1, (1 << 20) + 1);
    assert_non_null(path);
    memset(path, 'x', 1 << 20);
    open_to_peer();
    struct agent_call calls[COUNT];
    for (int i = 0; i < COUNT; i++)
        calls[i].request = (struct agent_request){.type = AGENT_STAT, .path = path};
    unsigned count = COUNT;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, hear_until, &count), 0);
    agent_link_call_many(at, calls, COUNT, NULL);
    (void)pthread_join(thread, NULL);
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(calls[i].error, 0);
        agent_reply_done(&calls[i].reply);
    }
    struct cancel *cancel = cancel_new();
    assert_int_equal(pthread_create(&thread, NULL, raise_it, cancel), 0);
    agent_link_call_many(at, calls, COUNT, cancel); /* nobody listens now */
    (void)pthread_join(thread, NULL);
    cancel_unref(cancel);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(calls[i].error, -EINTR);
    struct agent_call too_long = {.request = {.type = AGENT_STAT, .path = path}};
    char *longer = calloc(1, AGENT_MAX_REQUEST_BYTES + 1);
    assert_non_null(longer);
    memset(longer, 'x', AGENT_MAX_REQUEST_BYTES);
    too_long.request.path = longer;
    close_peer();
    open_to_peer();
    agent_link_call_many(at, &too_long, 1, NULL);
    assert_int_equal(too_long.error, -EMSGSIZE);
    assert_false(agent_link_is_broken(at));
    close_peer();
    free(longer);
    free(path);
}

struct much {
    struct agent_call calls[40];
};

static void *call_much(void *arg)
{
    struct much *much = arg;
    size_t count = sizeof(much->calls) / sizeof(much->calls[0]);
    agent_link_call_many(at, much->calls, count, NULL);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(much->calls[i].error, 0);
        agent_reply_done(&much->calls[i].reply);
    }
    return NULL;
}

/* One waits for a reply and reads; another's requests do not fit at once: they are sent on
 * all the same. */
static void who_reads_sends_for_the_others(void **state)
{
    (void)state;
    static struct much much;
    unsigned count = sizeof(much.calls) / sizeof(much.calls[0]);
    char *path = calloc(1, (1 << 20) + 1);
    assert_non_null(path);
    memset(path, 'x', 1 << 20);
    open_to_peer();
    struct late reader = {.request = {.type = AGENT_STAT}};
    struct late one = {.request = {.type = AGENT_STAT, .path = path}};
    pthread_t reads, sends;
    begin_call(&reader, &reads);
    uint32_t id = peer_hears().id;
    begin_call(&one, &sends);
    peer_says(peer_hears().id, AGENT_STAT, 0, 4, "");
    (void)pthread_join(sends, NULL);
    assert_int_equal(one.result, 4);

    for (unsigned i = 0; i < count; i++)
        much.calls[i].request = one.request;
    assert_int_equal(pthread_create(&sends, NULL, call_much, &much), 0);
    (void)hear_until(&count);
    (void)pthread_join(sends, NULL);
    peer_says(id, AGENT_STAT, 0, 6, "");
    (void)pthread_join(reads, NULL);
    assert_int_equal(reader.result, 6);
    close_peer();
    free(path);
}

/* ---- the end under many ---- */

static void break_under_many(void (*break_it)(void))
{
    enum { COUNT = 100 };
    struct late lates[COUNT];
    pthread_t threads[COUNT];
    open_to_peer();
    for (int i = 0; i < COUNT; i++) {
        lates[i] = (struct late){.request = {.type = AGENT_STAT}};
        begin_call(&lates[i], &threads[i]);
    }
    for (int i = 0; i < COUNT; i++)
        (void)peer_hears();
    break_it();
    for (int i = 0; i < COUNT; i++) {
        (void)pthread_join(threads[i], NULL);
        assert_int_equal(lates[i].result, -ENOTCONN);
    }
    assert_int_equal(call((struct agent_request){.type = AGENT_STAT}), -ENOTCONN);
    close_peer();
}

static void peer_goes(void)
{
    (void)close(peer);
    peer = -1;
}

static void we_end_it(void)
{
    agent_link_end(at);
}

static void all_who_wait_learn_of_the_end(void **state)
{
    (void)state;
    break_under_many(peer_goes);
    break_under_many(we_end_it);
}

/* The reader among them gives up first, then the next, until one is left; he gets his. */
static void who_waits_takes_over_from_who_gives_up(void **state)
{
    (void)state;
    enum { COUNT = 50 };
    struct late lates[COUNT];
    pthread_t threads[COUNT];
    open_to_peer();
    uint32_t id = 0;
    for (int i = 0; i < COUNT; i++) {
        lates[i] = (struct late){.request = {.type = AGENT_STAT}, .cancel = cancel_new()};
        begin_call(&lates[i], &threads[i]);
        id = peer_hears().id;
    }
    for (int i = 0; i < COUNT - 1; i++) {
        cancel_raise(lates[i].cancel);
        (void)pthread_join(threads[i], NULL);
        assert_int_equal(lates[i].result, -EINTR);
    }
    peer_says(id, AGENT_STAT, 0, 9, "");
    (void)pthread_join(threads[COUNT - 1], NULL);
    assert_int_equal(lates[COUNT - 1].result, 9);
    for (int i = 0; i < COUNT; i++)
        cancel_unref(lates[i].cancel);
    close_peer();
}

static void *trickle(void *arg)
{
    (void)arg;
    struct agent_request request = peer_hears();
    struct buf frame cleanup_buf = frame_of(request.id, AGENT_OPEN, AGENT_WHOLE, 0, "12345", 5);
    for (size_t i = 0; i < frame.len; i++)
        write_all(peer, frame.data + i, 1);
    return NULL;
}

static void a_reply_may_come_byte_by_byte(void **state)
{
    (void)state;
    open_to_peer();
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, trickle, NULL), 0);
    struct agent_reply reply cleanup_agent_reply =
        reply_to((struct agent_request){.type = AGENT_OPEN, .bytes = 5});
    assert_string_equal(buf_string(&reply.payload), "12345");
    (void)pthread_join(thread, NULL);
    close_peer();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_the_right_agent_is_spoken_to),
        cmocka_unit_test(what_it_writes_to_stderr_is_told),
        cmocka_unit_test(what_makes_no_sense_breaks_the_link),
        cmocka_unit_test(a_reply_is_taken_once),
        cmocka_unit_test(late_replies_are_dropped),
        cmocka_unit_test(all_slots_are_of_those_who_gave_up),
        cmocka_unit_test(a_peer_that_does_not_listen),
        cmocka_unit_test(who_reads_sends_for_the_others),
        cmocka_unit_test(all_who_wait_learn_of_the_end),
        cmocka_unit_test(who_waits_takes_over_from_who_gives_up),
        cmocka_unit_test(a_reply_may_come_byte_by_byte),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    raise_nofile();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
