/* SPDX-License-Identifier: MIT */
/*
 * volume/agent_link.h as a hostile agent has it: the first byte says over what, the
 * rest is what comes behind the right HELLO, then the connection ends.  All calls
 * must return, and no reply be more than was asked for.
 */
#include "fuzz.h"

#include "engine/attach.h"
#include "volume/agent_link.h"

#include <fcntl.h>
#include <sys/socket.h>

#define NONCE "0123456789abcdef0123456789abcdef"
/* What a socket takes without anybody reading it. */
#define MAX_BYTES ((size_t)65536)

enum { BY_STREAM = 1 << 0, WITH_DESCRIPTORS = 1 << 1 };

static void say_hello(int fd, bool by_stream)
{
    static const char part[8] = {1, 0, 0, 0, 0, 0, 0, AGENT_FRAME_HEAD_BYTES + 32};
    const struct agent_frame hello = {
        .type = AGENT_HELLO, .result = AGENT_VERSION, .payload = NONCE, .bytes = 32};
    struct buf out cleanup_buf;
    buf_init(&out, 1000);
    require(!by_stream || buf_add(&out, part, sizeof(part)) == 0);
    require(agent_frame_write(&out, &hello) == 0);
    require(write(fd, out.data, out.len) == (ssize_t)out.len);
}

/* A file and what is none. */
static void say(int fd, const uint8_t *data, size_t size, bool with_descriptors)
{
    int fds[2] = {memfd_create("fuzz", MFD_CLOEXEC), fd};
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(fds))];
    } control = {0};
    struct iovec piece = {(void *)(uintptr_t)data, size};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
    if (with_descriptors) {
        message.msg_control = &control;
        message.msg_controllen = sizeof(control.bytes);
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(sizeof(fds));
        memcpy(CMSG_DATA(&control.head), fds, sizeof(fds));
    }
    require(size == 0 || sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)size);
    (void)close(fds[0]);
}

static void check(struct agent_call *call)
{
    int r = call->error;
    require(r == 0 || r == -ENOTCONN || r == -EBADMSG);
    if (r < 0)
        return;
    bool is_exact = call->request.type == AGENT_READ || call->request.type == AGENT_OPEN;
    require(call->reply.result < 0 || !is_exact || call->reply.payload.len <= call->request.bytes);
    bool may_have_fd = call->request.type == AGENT_OPEN || call->request.type == AGENT_ROOT;
    require(call->reply.fd < 0 || may_have_fd);
    agent_reply_done(&call->reply);
}

static void make_calls(struct agent_link *link)
{
    struct agent_call calls[AGENT_CLOSE - AGENT_STAT + 1];
    size_t count = sizeof(calls) / sizeof(calls[0]);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < count; i++)
            calls[i].request = (struct agent_request){
                .type = i + 1 < count ? (uint16_t)(AGENT_STAT + i) : AGENT_ROOT,
                .path = "f",
                .bytes = 100,
                .handle = 1};
        agent_link_call_many(link, calls, count, NULL);
        for (size_t i = 0; i < count; i++)
            check(&calls[i]);
    }
    agent_link_close_handle(link, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int pair[2];
    struct agent_link *link;
    if (size == 0 || size > MAX_BYTES)
        return 0;
    bool by_stream = data[0] & BY_STREAM;
    require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    say_hello(pair[1], by_stream);
    say(pair[1], data + 1, size - 1, data[0] & WITH_DESCRIPTORS);
    (void)shutdown(pair[1], SHUT_WR);
    int r = agent_link_open(pair[0], !by_stream, NONCE, NULL, &link, NULL);
    if (r == 0) {
        make_calls(link);
        agent_link_unref(link);
    }
    require(r == 0 || r == -EBADMSG || r == -ENOTCONN);
    (void)close(pair[1]);
    return 0;
}
