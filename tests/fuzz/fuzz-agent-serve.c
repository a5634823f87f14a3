/* SPDX-License-Identifier: MIT */
/*
 * agent/server.h on a small tree. The first byte says whether each request waits for
 * the reply to the one before (so that handles are of use), and whether over a socket;
 * the rest is sent. Every request must be replied to once, and nothing of what
 * lies outside of the tree be told.
 *
 * A request to open whose identity is 1 is given the right one.
 */
#include "fuzz.h"

#include "agent/inspect.h"
#include "agent/protocol.h"
#include "agent/server.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define NONCE "0123456789abcdef0123456789abcdef"
#define SECRET "not to be told"
#define SECRET_NAME "outside"
/* What a socket takes, even in the smallest frames, without anybody reading it. */
#define INPUT_MAX_BYTES ((size_t)4096)

enum { PACED = 1 << 0, WITHOUT_DESCRIPTORS = 1 << 1 };

/* ---- the tree ------------------------------------------------------------------------ */

static char top[] = "/tmp/fuzz-agent-XXXXXX";
static int root = -1;

static void remove_tree(void)
{
    char command[64];
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", top);
    (void)!system(command);
}

static void make_file(int dir, const char *name, const char *text, off_t bytes)
{
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    require(fd >= 0 && write(fd, text, strlen(text)) >= 0);
    require(bytes == 0 || ftruncate(fd, bytes) == 0);
    (void)close(fd);
}

static void make_tree(void)
{
    require(mkdtemp(top) != NULL && atexit(remove_tree) == 0);
    int outside = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    make_file(outside, SECRET_NAME, SECRET, 0);
    require(mkdirat(outside, "root", 0700) == 0);
    root = openat(outside, "root", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    require(root >= 0 && mkdirat(root, "d", 0700) == 0 && mkdirat(root, "d/e", 0700) == 0);
    make_file(root, "f", "some text", 0);
    make_file(root, "d/a", "", 0);
    make_file(root, "d/e/hole", "begin", 1 << 17);
    require(mkfifoat(root, "d/fifo", 0600) == 0 && symlinkat("..", root, "up") == 0);
    require(symlinkat("../../" SECRET_NAME, root, "d/l") == 0);
    (void)close(outside);
}

/* ---- what is sent --------------------------------------------------------------------- */

static uint64_t identity_of(const char *path, uint64_t *ret_dev)
{
    struct buf record cleanup_buf;
    buf_init(&record, 1 << 20);
    struct file file;
    size_t position = 0;
    if (inspect_file(root, path, "", 0, &record) < 0 ||
        file_read(record.data, record.len, &position, &file) != 1)
        return 1;
    *ret_dev = file.stat.dev;
    return file_identity(&file.stat);
}

/* Sends a request, or what is none: whether it will be replied to. */
static bool send_frame(int fd, const struct agent_frame *frame)
{
    struct buf out cleanup_buf;
    buf_init(&out, 2 * INPUT_MAX_BYTES);
    struct agent_request request;
    bool is_request = agent_request_read(frame, &request) == 0;
    if (is_request && request.type == AGENT_SYNC) /* of the whole disk, which takes long */
        return false;
    if (is_request && request.type == AGENT_OPEN && request.identity == 1)
        request.identity = identity_of(request.path, &request.dev);
    require((is_request ? agent_request_write(&out, &request) : agent_frame_write(&out, frame)) ==
            0);
    ssize_t n;
    do
        n = send(fd, out.data, out.len, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)out.len && is_request && request.type != AGENT_CLOSE;
}

/* ---- what comes -------------------------------------------------------------------------- */

struct replies {
    int fd;
    struct buf in;
    size_t position;
    uint64_t count;
};

static void check_reply(const struct agent_frame *frame)
{
    require(frame->bytes <= AGENT_MAX_REPLY_BYTES);
    require(!memmem(frame->payload, frame->bytes, SECRET, strlen(SECRET)));
    bool has_records = frame->type == AGENT_STAT || frame->type == AGENT_LIST ||
                       frame->type == AGENT_WALK || frame->type == AGENT_NEXT;
    size_t position = 0;
    struct file file;
    int r = 0;
    while (frame->result >= 0 && has_records &&
           (r = file_read(frame->payload, frame->bytes, &position, &file)) > 0)
        require(strcmp(file.name, SECRET_NAME) != 0);
    require(r == 0 && (frame->result >= 0 || frame->flags == 0));
}

/* Takes in what has come, waiting for one reply if told to: false at the end. */
static bool receive(struct replies *replies, bool wait)
{
    char chunk[65536], control[CMSG_SPACE(64 * sizeof(int))];
    struct agent_frame frame;
    while (agent_frame_read(replies->in.data, replies->in.len, &replies->position,
                            AGENT_MAX_REPLY_BYTES, &frame) == 0) {
        struct iovec piece = {chunk, sizeof(chunk)};
        struct msghdr message = {.msg_iov = &piece,
                                 .msg_iovlen = 1,
                                 .msg_control = control,
                                 .msg_controllen = sizeof(control)};
        ssize_t n = recvmsg(replies->fd, &message, wait ? 0 : MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) /* libFuzzer's clock */
            continue;
        if (n <= 0)
            return false;
        for (struct cmsghdr *at = CMSG_FIRSTHDR(&message); at; at = CMSG_NXTHDR(&message, at))
            for (size_t i = 0; i < (at->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
                int fd;
                memcpy(&fd, CMSG_DATA(at) + i * sizeof(int), sizeof(fd));
                (void)close(fd);
            }
        require(buf_add(&replies->in, chunk, (size_t)n) == 0);
    }
    check_reply(&frame);
    replies->count++;
    return true;
}

/* ---- a server and its client ------------------------------------------------------------- */

static void *serve(void *arg)
{
    const struct agent_server *conf = arg;
    int r = agent_serve(conf);
    (void)shutdown(conf->in, SHUT_RDWR);
    return (void *)(intptr_t)r;
}

/* Sends it frame by frame: the number of replies that must come. */
static uint64_t send_all(int fd, const uint8_t *data, size_t size, bool paced,
                         struct replies *replies)
{
    size_t position = 0;
    uint64_t expected = 0;
    struct agent_frame frame;
    while (agent_frame_read((const char *)data, size, &position, AGENT_MAX_REQUEST_BYTES, &frame) >
           0) {
        bool is_asked = send_frame(fd, &frame);
        expected += is_asked;
        if (is_asked && paced)
            (void)receive(replies, true);
        while (!paced && receive(replies, false))
            ;
    }
    (void)send(fd, data + position, size - position, MSG_NOSIGNAL);
    return expected;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int pair[2];
    pthread_t thread;
    void *result;
    if (size == 0 || size > INPUT_MAX_BYTES)
        return 0;
    if (root < 0)
        make_tree();
    require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    struct agent_server conf = {.root = root,
                                .in = pair[0],
                                .out = pair[0],
                                .is_socket = !(data[0] & WITHOUT_DESCRIPTORS),
                                .nonce = NONCE,
                                .threads = 2};
    require(pthread_create(&thread, NULL, serve, &conf) == 0);
    struct replies replies = {.fd = pair[1]};
    buf_init(&replies.in, (size_t)1 << 30);
    require(receive(&replies, true)); /* HELLO */
    uint64_t expected = send_all(pair[1], data + 1, size - 1, data[0] & PACED, &replies) + 1;
    (void)shutdown(pair[1], SHUT_WR);
    while (receive(&replies, true))
        ;
    require(pthread_join(thread, &result) == 0);
    int r = (int)(intptr_t)result;
    require(r == 0 || r == -EBADMSG);
    require(replies.count <= expected && (r < 0 || replies.count == expected));
    require(replies.position == replies.in.len);
    buf_done(&replies.in);
    (void)close(pair[0]);
    (void)close(pair[1]);
    return 0;
}
