/* SPDX-License-Identifier: MIT */
/* A client of the agent that trusts it, for tests alone, and a directory to serve. */
#ifndef DVOLFS_TESTS_UNIT_TEST_AGENT_H
#define DVOLFS_TESTS_UNIT_TEST_AGENT_H

#include "check.h"

#include "agent/file.h"
#include "agent/protocol.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define NONCE "0123456789abcdef0123456789abcdef"

/* ---- a directory ----------------------------------------------------------------- */

static char top[64];

static inline void run(const char *script)
{
    char *command = NULL;
    assert_true(asprintf(&command, "cd '%s' && { %s ; }", top, script) > 0);
    assert_int_equal(system(command), 0);
    free(command);
}

static inline void make_top(void)
{
    (void)snprintf(top, sizeof(top), "/tmp/test-agent-XXXXXX");
    assert_non_null(mkdtemp(top));
}

static inline void remove_top(void)
{
    char *command = NULL;
    assert_true(asprintf(&command, "chmod -R u+rwx '%s'; rm -rf '%s'", top, top) > 0);
    assert_int_equal(system(command), 0);
    free(command);
}

/* ---- a client ---------------------------------------------------------------------- */

/* One frame that came. */
struct answer {
    struct agent_frame frame; /* its payload is `payload` */
    char *payload;            /* malloc'ed, and a NUL behind */
    int fd;                   /* of AGENT_DESCRIPTOR; else -1 */
};

struct client {
    int in, out; /* the same: a socket */
    uint32_t last_id;
    struct buf received;
    int fds[4096]; /* that came, those before fd_taken having been taken */
    size_t fd_count, fd_taken;
};

static inline void client_init(struct client *client, int in, int out)
{
    *client = (struct client){.in = in, .out = out};
    buf_init(&client->received, (size_t)64 << 20);
}

static inline void client_close_in(struct client *client)
{
    if (client->in >= 0 && client->in != client->out)
        (void)close(client->in);
    client->in = -1;
}

/* Sends no more. */
static inline void client_close_out(struct client *client)
{
    if (client->out >= 0 && client->in == client->out)
        (void)shutdown(client->out, SHUT_WR);
    else if (client->out >= 0)
        (void)close(client->out);
    if (client->in != client->out)
        client->out = -1;
}

static inline void client_done(struct client *client)
{
    if (client->out >= 0)
        (void)close(client->out);
    client_close_in(client);
    while (client->fd_taken < client->fd_count)
        (void)close(client->fds[client->fd_taken++]);
    buf_done(&client->received);
}

static inline void send_bytes(struct client *client, const void *data, size_t len)
{
    const char *at = data;
    while (len) {
        ssize_t n = write(client->out, at, len);
        assert_true(n > 0);
        at += n;
        len -= (size_t)n;
    }
}

static inline uint32_t send_request(struct client *client, struct agent_request request)
{
    struct buf out cleanup_buf;
    buf_init(&out, 2 << 20);
    request.id = ++client->last_id;
    assert_int_equal(agent_request_write(&out, &request), 0);
    send_bytes(client, out.data, out.len);
    return request.id;
}

static inline void keep_fds(struct client *client, struct msghdr *message)
{
    assert_false(message->msg_flags & MSG_CTRUNC);
    for (struct cmsghdr *head = CMSG_FIRSTHDR(message); head; head = CMSG_NXTHDR(message, head)) {
        size_t bytes = head->cmsg_len - CMSG_LEN(0);
        assert_int_equal(head->cmsg_type, SCM_RIGHTS);
        assert_true(client->fd_count * sizeof(int) + bytes <= sizeof(client->fds));
        memcpy(client->fds + client->fd_count, CMSG_DATA(head), bytes);
        client->fd_count += bytes / sizeof(int);
    }
}

/* Reads once, up to len bytes; 0: the end. */
static inline size_t receive_some(struct client *client, size_t len)
{
    static char chunk[1 << 20];
    char control[CMSG_SPACE(64 * sizeof(int))];
    struct iovec piece = {chunk, len < sizeof(chunk) ? len : sizeof(chunk)};
    struct msghdr message = {.msg_iov = &piece,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof(control)};
    bool is_socket = client->in == client->out;
    ssize_t n = is_socket ? recvmsg(client->in, &message, MSG_CMSG_CLOEXEC)
                          : read(client->in, chunk, piece.iov_len);
    assert_true(n >= 0);
    if (is_socket)
        keep_fds(client, &message);
    assert_int_equal(buf_add(&client->received, chunk, (size_t)n), 0);
    return (size_t)n;
}

static inline struct answer receive(struct client *client)
{
    struct answer answer = {.fd = -1};
    size_t position = 0;
    int r;
    while ((r = agent_frame_read(client->received.data, client->received.len, &position,
                                 AGENT_MAX_REPLY_BYTES, &answer.frame)) == 0)
        assert_true(receive_some(client, SIZE_MAX) > 0);
    assert_int_equal(r, 1);
    answer.payload = calloc(1, answer.frame.bytes + 1);
    assert_non_null(answer.payload);
    memcpy(answer.payload, answer.frame.payload, answer.frame.bytes);
    answer.frame.payload = answer.payload;
    if (answer.frame.flags & AGENT_DESCRIPTOR) {
        assert_true(client->fd_taken < client->fd_count); /* no later than the frame */
        answer.fd = client->fds[client->fd_taken++];
    }
    buf_drop_front(&client->received, position);
    return answer;
}

static inline void answer_done(struct answer *answer)
{
    free(answer->payload);
    cleanup_close_impl(&answer->fd);
}
#define cleanup_answer cleanup(answer_done)

/* Asks, and waits for the answer, while no other request is under way. */
static inline struct answer ask(struct client *client, struct agent_request request)
{
    uint32_t id = send_request(client, request);
    struct answer answer = receive(client);
    assert_int_equal(answer.frame.id, id);
    assert_int_equal(answer.frame.type, request.type);
    return answer;
}

/* The result alone. */
static inline int32_t result_of(struct client *client, struct agent_request request)
{
    struct answer answer cleanup_answer = ask(client, request);
    assert_true(answer.frame.result >= 0 || !answer.frame.flags);
    return answer.frame.result;
}

static inline void expect_hello(struct client *client)
{
    struct answer hello cleanup_answer = receive(client);
    assert_int_equal(hello.frame.type, AGENT_HELLO);
    assert_int_equal(hello.frame.id, 0);
    assert_int_equal(hello.frame.result, AGENT_VERSION);
    assert_string_equal(hello.payload, NONCE);
}

/* Nothing more comes, and nothing has come that was not asked for. */
static inline void expect_end(struct client *client)
{
    client_close_out(client);
    while (receive_some(client, SIZE_MAX) > 0)
        ;
    assert_int_equal(client->received.len, 0);
    assert_int_equal(client->fd_taken, client->fd_count);
}

static inline struct file_stat stat_of(struct client *client, const char *path)
{
    struct answer answer cleanup_answer =
        ask(client, (struct agent_request){.type = AGENT_STAT, .path = path});
    assert_int_equal(answer.frame.result, 0);
    size_t position = 0;
    struct file file;
    assert_int_equal(file_read(answer.payload, answer.frame.bytes, &position, &file), 1);
    assert_int_equal(position, answer.frame.bytes);
    return file.stat;
}

/* The request that opens the file which is there now. */
static inline struct agent_request open_request(struct client *client, const char *path,
                                                uint32_t bytes, uint32_t flags)
{
    struct file_stat st = stat_of(client, path);
    return (struct agent_request){.type = AGENT_OPEN,
                                  .path = path,
                                  .dev = st.dev,
                                  .identity = file_identity(&st),
                                  .bytes = bytes,
                                  .flags = flags};
}

/* As many descriptors as this process may have. */
static inline void raise_nofile(void)
{
    struct rlimit files;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
    files.rlim_cur = files.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
}

#endif
