/* SPDX-License-Identifier: MIT */
/*
 * Not by libcurl: the connection outlives the exchange and is the caller's, who
 * polls it together with others.
 */
#include "engine/attach.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define HEAD_MAX_BYTES ((size_t)16384)

/* What an exchange may wait for. */
struct limits {
    int64_t until_ms; /* ENGINE_DEADLINE_MS from its beginning */
    struct cancel *cancel;
};

static int64_t now_ms(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int wait_for(int fd, short events, const struct limits *limits, struct fail *why)
{
    struct pollfd fds[] = {{.fd = fd, .events = events},
                           {.fd = cancel_fd(limits->cancel), .events = POLLIN}};
    int n;
    do {
        int64_t left = limits->until_ms - now_ms();
        n = poll(fds, 2, left > 0 ? (int)left : 0);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return fail_errno(why, errno, "poll");
    if (n == 0)
        return fail_set(why, ETIMEDOUT, "the engine does not answer");
    return fds[1].revents ? fail_set(why, EINTR, "interrupted") : 0;
}

static int send_all(int fd, const char *text, const struct limits *limits, struct fail *why)
{
    for (size_t left = strlen(text); left;) {
        ssize_t n = send(fd, text, left, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return fail_errno(why, errno == EPIPE ? EIO : errno, "the engine's connection");
        if (n > 0) {
            text += n;
            left -= (size_t)n;
            continue;
        }
        int r = wait_for(fd, POLLOUT, limits, why);
        if (r < 0)
            return r;
    }
    return 0;
}

/* How many of the bytes seen belong to the head, given what came of it before;
 * *ret_ends: the last of them is its end. */
static size_t head_part(const struct buf *head, const char *seen, size_t len, bool *ret_ends)
{
    static const char end[] = "\r\n\r\n";
    char tail[4] = "";
    size_t kept = head->len < 3 ? head->len : 3;
    if (kept)
        memcpy(tail, head->data + head->len - kept, kept);
    for (size_t i = 0; i < len; i++) {
        tail[kept] = seen[i];
        if (kept == 3 && memcmp(tail, end, 4) == 0) {
            *ret_ends = true;
            return i + 1;
        }
        if (kept < 3)
            kept++;
        else
            memmove(tail, tail + 1, 3);
    }
    return len;
}

/* The answer's head and not a byte more: what follows is the stream. */
static int receive_head(int fd, struct buf *head, const struct limits *limits, struct fail *why)
{
    for (bool ends = false; !ends;) {
        char seen[1024];
        ssize_t n = recv(fd, seen, sizeof(seen), MSG_PEEK);
        if (n == 0)
            return fail_set(why, EIO, "the engine closed the connection");
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return fail_errno(why, errno, "the engine's connection");
        if (n < 0) {
            int r = wait_for(fd, POLLIN, limits, why);
            if (r < 0)
                return r;
            continue;
        }
        size_t part = head_part(head, seen, (size_t)n, &ends);
        if (buf_add(head, seen, part) < 0)
            return fail_set(why, EIO, "the engine's answer makes no sense");
        n = recv(fd, seen, part, 0);
        if (n != (ssize_t)part)
            return fail_set(why, EIO, "the engine's connection broke");
    }
    return 0;
}

static int check_head(const struct buf *head, struct fail *why)
{
    int status;
    if (sscanf(buf_string(head), "HTTP/1.%*1[01] %d", &status) != 1)
        return fail_set(why, EIO, "the engine's answer makes no sense");
    /* 200 is what an engine says that was not asked to upgrade, or does not know how. */
    if (status == 101 || status == 200)
        return 0;
    return fail_set(why, status == 404 ? ENOENT : EIO, "the engine attaches nothing (status %d)",
                    status);
}

int engine_container_attach(struct engine *engine, const char *id, struct cancel *cancel,
                            struct fail *why)
{
    char version[16];
    engine_api_version(engine, version);
    cleanup_free char *escaped = engine_escape(id);
    cleanup_free char *request = NULL;
    if (!escaped || asprintf(&request,
                             "POST /v%s/containers/%s/attach?stream=1&stdin=1&stdout=1&stderr=1 "
                             "HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
                             "Upgrade: tcp\r\nContent-Length: 0\r\n\r\n",
                             version, escaped) < 0) {
        request = NULL;
        return fail_errno(why, ENOMEM, "container");
    }
    cleanup_close int fd = engine_connect(engine, why);
    if (fd < 0)
        return fd;
    struct buf head cleanup_buf;
    buf_init(&head, HEAD_MAX_BYTES);
    const struct limits limits = {.until_ms = now_ms() + ENGINE_DEADLINE_MS, .cancel = cancel};
    int r = send_all(fd, request, &limits, why);
    if (r == 0)
        r = receive_head(fd, &head, &limits, why);
    if (r == 0)
        r = check_head(&head, why);
    return r < 0 ? r : take_fd(&fd);
}

/* ---- what comes then --------------------------------------------------------------- */

/* The head of a part: its stream, three zeros, and its length, big-endian. */
static int begin_part(struct attach_state *state)
{
    const unsigned char *head = state->head;
    if (head[0] > 2 || head[1] || head[2] || head[3])
        return -EBADMSG;
    state->left = (uint32_t)head[4] << 24 | (uint32_t)head[5] << 16 | (uint32_t)head[6] << 8 |
                  (uint32_t)head[7];
    if (state->left == 0)
        state->head_bytes = 0;
    return 0;
}

static int give_part(const struct attach_state *state, const char *bytes, size_t len,
                     struct buf *out, struct buf *err)
{
    if (state->head[0] == 1)
        return buf_add(out, bytes, len);
    if (state->head[0] == 2) { /* a note for people: what does not fit is left out */
        size_t room = err->max_bytes - err->len;
        (void)!buf_add(err, bytes, len < room ? len : room);
    }
    return 0;
}

int attach_take(struct attach_state *state, const void *bytes, size_t len, struct buf *out,
                struct buf *err)
{
    const char *at = bytes;
    int r = 0;
    while (len && r == 0) {
        size_t n = state->left;
        if (state->head_bytes < sizeof(state->head)) {
            state->head[state->head_bytes++] = (unsigned char)*at;
            n = 1;
            if (state->head_bytes == sizeof(state->head))
                r = begin_part(state);
        } else {
            if (n > len)
                n = len;
            r = give_part(state, at, n, out, err);
            state->left -= (uint32_t)n;
            if (state->left == 0)
                state->head_bytes = 0;
        }
        at += n;
        len -= n;
    }
    return r;
}
