/* SPDX-License-Identifier: MIT */
/*
 * Without a thread of its own: whoever waits reads.  Of those who wait one, the
 * reader, polls the connection, with the lock let go, and hands out what comes;
 * when it has its own replies it makes the next one the reader.  So a single
 * caller gets its reply without another thread being woken.
 *
 * A request is found again by its id, the number of a slot and a count, so that
 * a late reply is not taken for that of a later request.  The slot of a call
 * that was given up stays taken until its reply has come, and what that opened
 * is closed.
 *
 * One lock guards it all.
 */
#include "volume/agent_link.h"

#include "engine/attach.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#define SLOT_BITS 10
#define SLOTS (1u << SLOT_BITS)
#define HELLO_SLOT 0 /* of the frame that comes unasked, with id 0 */
#define READ_BYTES ((size_t)256 * 1024)
/* Descriptors in one message: unix(7), SCM_MAX_FD. */
#define MESSAGE_FDS 253
/* That have come and whose frames have not: a message's, since the next is read
 * apart from it, and its frames follow at once. */
#define MAX_FDS 256
/*
 * A stream comes in the pieces that the engine's shim copies, of 4 KiB with containerd 1.6,
 * and to be woken for each costs us and the engine more than the piece.  So while more than
 * so many replies are due, and less than so much came last, they are let gather: the contents
 * of 61,000 files take 0.84 to 0.93 of the time.
 */
#define GATHER_REPLIES 16
#define GATHER_BYTES ((size_t)64 * 1024)
#define GATHER_NS 500000
/* Of requests that are not sent yet, then who has more to ask waits; and of those
 * with what is told without waiting. */
#define FULL_OUT_BYTES ((size_t)8 << 20)
#define MAX_OUT_BYTES ((size_t)16 << 20)
/* Of one record, without what was asked for: agent/file.h. */
#define MAX_RECORD_BYTES (AGENT_MAX_REPLY_BYTES - AGENT_MAX_BYTES)
#define MAX_PATH_BYTES AGENT_MAX_REQUEST_BYTES /* at which a walk failed */
#define MAX_ERR_BYTES 400

/* A thread with calls under way. */
struct agent_waiter {
    pthread_cond_t woken;
    size_t left; /* replies */
    struct agent_waiter *next;
};

struct slot {
    uint32_t id;
    uint16_t type;           /* 0: free */
    size_t max_bytes;        /* of a reply that is no error */
    struct agent_call *call; /* NULL: given up */
};

struct agent_link {
    int fd;
    int wake_fd; /* wakes the reader: there is something to send */
    bool is_socket;
    char *scratch; /* READ_BYTES, the reader's */

    pthread_mutex_t lock;
    int refs;
    int error;    /* why it is broken; 0: it is not */
    bool is_read; /* somebody is the reader */
    struct agent_waiter *waiters;
    int64_t silent_since_ms; /* while there are waiters */
    size_t came_bytes;       /* by the last look */
    unsigned slots_used;
    unsigned next_slot;
    uint32_t count; /* of requests, for ids */
    struct slot slots[SLOTS];
    struct buf out;
    struct buf in;
    struct buf err; /* what the agent wrote to stderr */
    struct attach_state attach;
    int fds[MAX_FDS]; /* descriptors that have come, first in, first out */
    unsigned fd_count;
};

void agent_reply_done(struct agent_reply *reply)
{
    buf_done(&reply->payload);
    cleanup_close_impl(&reply->fd);
    reply->fd = -1;
}

static int64_t now_ms(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* ---- waiters ----------------------------------------------------------------------- */

/* With the lock, like all below unless they say otherwise. */
static void wake_all(struct agent_link *link)
{
    for (struct agent_waiter *at = link->waiters; at; at = at->next)
        (void)pthread_cond_signal(&at->woken);
}

static void settle(struct agent_call *call, int error)
{
    call->error = error;
    if (--call->waiter->left == 0)
        (void)pthread_cond_signal(&call->waiter->woken);
}

/* Whether who has more to ask must wait. */
static bool is_full(const struct agent_link *link)
{
    return (link->slots_used >= SLOTS - 1 || link->out.len >= FULL_OUT_BYTES) && !link->error;
}

static void free_slot(struct agent_link *link, struct slot *slot)
{
    bool was_full = is_full(link);
    *slot = (struct slot){0};
    link->slots_used--;
    if (was_full)
        wake_all(link);
}

static void break_link(struct agent_link *link, int error)
{
    if (link->error)
        return;
    link->error = error;
    (void)shutdown(link->fd, SHUT_RDWR);
    for (unsigned i = 0; i < SLOTS; i++) {
        struct agent_call *call = link->slots[i].type ? link->slots[i].call : NULL;
        if (link->slots[i].type)
            free_slot(link, &link->slots[i]);
        if (call)
            settle(call, error);
    }
    wake_all(link);
}

/* ---- sending ------------------------------------------------------------------------ */

/* As much as can be sent now. */
static void flush(struct agent_link *link)
{
    bool was_full = is_full(link);
    size_t done = 0;
    while (done < link->out.len && !link->error) {
        ssize_t n = send(link->fd, link->out.data + done, link->out.len - done,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0)
            done += (size_t)n;
        else if (n < 0 && errno == EAGAIN)
            break;
        else if (n < 0 && errno != EINTR)
            break_link(link, -ENOTCONN);
    }
    buf_drop_front(&link->out, done);
    if (was_full && !is_full(link))
        wake_all(link);
    if (link->out.len && link->is_read) {
        uint64_t one = 1;
        (void)!write(link->wake_fd, &one, sizeof(one));
    }
}

static struct slot *find_free_slot(struct agent_link *link)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        unsigned index = (link->next_slot + i) % SLOTS;
        if (index == HELLO_SLOT || link->slots[index].type)
            continue;
        link->next_slot = index + 1;
        return &link->slots[index];
    }
    return NULL;
}

/* What a reply that makes sense has at most. */
static size_t reply_bytes(const struct agent_request *request)
{
    switch (request->type) {
    case AGENT_HELLO:
        return AGENT_NONCE_BYTES;
    case AGENT_SEEK:
        return sizeof(uint64_t);
    case AGENT_SYNC:
        return 2 * sizeof(uint64_t);
    case AGENT_ROOT:
        return 0;
    case AGENT_OPEN:
    case AGENT_READ:
        return request->bytes;
    default:
        return request->bytes + MAX_RECORD_BYTES;
    }
}

static void take_slot(struct agent_link *link, struct slot *slot, struct agent_call *call)
{
    uint32_t number = (uint32_t)(slot - link->slots);
    *slot = (struct slot){.id = number == HELLO_SLOT ? 0 : ++link->count << SLOT_BITS | number,
                          .type = call->request.type,
                          .max_bytes = reply_bytes(&call->request),
                          .call = call};
    link->slots_used++;
}

/* Adds the request to what is to be sent; its reply will settle the call. */
static void begin(struct agent_link *link, struct agent_call *call)
{
    struct slot *slot = link->error ? NULL : find_free_slot(link);
    if (!slot) { /* who calls has seen to it that one is free */
        settle(call, link->error);
        return;
    }
    take_slot(link, slot, call);
    call->request.id = slot->id;
    int r = agent_request_write(&link->out, &call->request);
    if (r < 0) {
        free_slot(link, slot);
        settle(call, r);
    }
}

void agent_link_close_handle(struct agent_link *link, uint32_t handle)
{
    scoped_lock(&link->lock);
    if (link->error)
        return;
    /* Without memory the handle stays open at the agent, which bounds them. */
    if (agent_request_write(&link->out,
                            &(struct agent_request){.type = AGENT_CLOSE, .handle = handle}) == 0)
        flush(link);
}

/* ---- receiving ----------------------------------------------------------------------- */

static int take_descriptor(struct agent_link *link)
{
    if (link->fd_count == 0)
        return -1;
    int fd = link->fds[0];
    memmove(link->fds, link->fds + 1, --link->fd_count * sizeof(*link->fds));
    return fd;
}

/* Without asking the file's disk, which may take long: the lock is held. */
static bool is_of_type(int fd, mode_t type)
{
    struct statx st;
    return statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st) == 0 &&
           (st.stx_mode & S_IFMT) == type;
}

/* Whether it may come with a reply of that type. */
static bool may_come(int fd, uint16_t type)
{
    return fd >= 0 && ((type == AGENT_OPEN && is_of_type(fd, S_IFREG)) ||
                       (type == AGENT_ROOT && is_of_type(fd, S_IFDIR)));
}

/* What a reply that nobody gets has opened is closed. */
static void drop_reply(struct agent_link *link, const struct agent_frame *frame, int fd)
{
    cleanup_close_impl(&fd);
    bool opens =
        frame->type == AGENT_OPEN || frame->type == AGENT_LIST || frame->type == AGENT_WALK;
    if (opens && frame->result > 0)
        (void)!agent_request_write(
            &link->out,
            &(struct agent_request){.type = AGENT_CLOSE, .handle = (uint32_t)frame->result});
}

static void give_reply(struct agent_link *link, struct agent_call *call,
                       const struct agent_frame *frame, int fd)
{
    struct agent_reply reply = {.result = frame->result, .flags = frame->flags, .fd = fd};
    buf_init(&reply.payload, AGENT_MAX_REPLY_BYTES);
    int r = buf_add(&reply.payload, frame->payload, frame->bytes);
    if (r < 0)
        drop_reply(link, frame, fd);
    else
        call->reply = reply;
    settle(call, r);
}

/* Whether it is a reply, as far as that can be told here, to what was asked. */
static bool is_reply(const struct slot *slot, const struct agent_frame *frame)
{
    size_t max_bytes = frame->result < 0 ? MAX_PATH_BYTES : slot->max_bytes;
    return slot->type == frame->type && slot->id == frame->id && frame->bytes <= max_bytes;
}

static int take_frame(struct agent_link *link, const struct agent_frame *frame)
{
    struct slot *slot = &link->slots[frame->id % SLOTS];
    if (!is_reply(slot, frame))
        return -EBADMSG;
    cleanup_close int fd = -1;
    if (frame->flags & AGENT_DESCRIPTOR) {
        fd = take_descriptor(link);
        if (!may_come(fd, frame->type))
            return -EBADMSG;
    }
    struct agent_call *call = slot->call;
    free_slot(link, slot);
    if (call)
        give_reply(link, call, frame, take_fd(&fd));
    else
        drop_reply(link, frame, take_fd(&fd));
    return 0;
}

static int take_frames(struct agent_link *link)
{
    size_t position = 0;
    struct agent_frame frame;
    int r;
    while ((r = agent_frame_read(link->in.data, link->in.len, &position, AGENT_MAX_REPLY_BYTES,
                                 &frame)) > 0) {
        r = take_frame(link, &frame);
        if (r < 0)
            return r;
    }
    buf_drop_front(&link->in, position);
    return r;
}

/* Keeps the descriptors of a message; -EMFILE: the kernel had no room for all. */
static int keep_descriptors(struct agent_link *link, struct msghdr *message)
{
    int r = message->msg_flags & MSG_CTRUNC ? -EMFILE : 0;
    for (struct cmsghdr *at = CMSG_FIRSTHDR(message); at; at = CMSG_NXTHDR(message, at)) {
        if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (at->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(at) + i * sizeof(int), sizeof(fd));
            if (r == 0 && link->fd_count < MAX_FDS) {
                link->fds[link->fd_count++] = fd;
            } else {
                (void)close(fd);
                r = -EMFILE;
            }
        }
    }
    return r;
}

/* The next bytes, without the lock.  As recv(2). */
static ssize_t receive(struct agent_link *link, struct msghdr *message)
{
    ssize_t n;
    do
        n = recvmsg(link->fd, message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static int take_bytes(struct agent_link *link, ssize_t n, struct msghdr *message)
{
    if (n == -EAGAIN)
        return 0;
    if (n <= 0)
        return -ENOTCONN;
    link->came_bytes = (size_t)n;
    link->silent_since_ms = now_ms();
    int r = keep_descriptors(link, message);
    if (r == 0)
        r = link->is_socket
                ? buf_add(&link->in, link->scratch, (size_t)n)
                : attach_take(&link->attach, link->scratch, (size_t)n, &link->in, &link->err);
    return r < 0 ? r : take_frames(link);
}

/* Waits until something comes, can be sent, or is to be: 1; or for too long: 0. */
static int wait_for_link(struct agent_link *link, bool sends, int64_t until_ms,
                         struct cancel *cancel)
{
    struct pollfd fds[] = {{.fd = link->fd, .events = (short)(POLLIN | (sends ? POLLOUT : 0))},
                           {.fd = link->wake_fd, .events = POLLIN},
                           {.fd = cancel_fd(cancel), .events = POLLIN}};
    int64_t left = until_ms - now_ms();
    int ready = poll(fds, 3, left > 0 ? (int)left : 0);
    uint64_t woken;
    if (ready > 0 && fds[1].revents)
        (void)!read(link->wake_fd, &woken, sizeof(woken));
    return ready != 0;
}

static bool lets_gather(const struct agent_link *link)
{
    return !link->is_socket && !link->out.len && link->slots_used > GATHER_REPLIES &&
           link->came_bytes < GATHER_BYTES;
}

/* Waits for the connection and takes what has come.  Lets the lock go meanwhile. */
static void read_once(struct agent_link *link, struct cancel *cancel)
{
    union {
        char bytes[CMSG_SPACE(MESSAGE_FDS * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec part = {.iov_base = link->scratch, .iov_len = READ_BYTES};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = link->is_socket ? control.bytes : NULL,
                             .msg_controllen = link->is_socket ? sizeof(control.bytes) : 0};
    bool sends = link->out.len > 0, gathers = lets_gather(link);
    int64_t until_ms = link->silent_since_ms + AGENT_SILENCE_MS;
    link->is_read = true;
    (void)pthread_mutex_unlock(&link->lock);
    if (gathers)
        (void)nanosleep(&(struct timespec){.tv_nsec = GATHER_NS}, NULL);
    int ready = wait_for_link(link, sends, until_ms, cancel);
    ssize_t n = ready ? receive(link, &message) : -ETIMEDOUT;
    (void)pthread_mutex_lock(&link->lock);
    link->is_read = false;
    int r = n == -ETIMEDOUT ? -ETIMEDOUT : take_bytes(link, n, &message);
    if (r < 0)
        break_link(link, r == -ETIMEDOUT || r == -EBADMSG ? r : -ENOTCONN);
    flush(link);
}

/* Makes one of those who wait the reader. */
static void pass_on(struct agent_link *link)
{
    if (link->waiters && !link->is_read)
        (void)pthread_cond_signal(&link->waiters->woken);
}

static void wait_for_replies(struct agent_link *link, struct agent_waiter *waiter,
                             struct cancel *cancel)
{
    while (waiter->left && !cancel_is_raised(cancel)) {
        if (link->is_read)
            (void)pthread_cond_wait(&waiter->woken, &link->lock);
        else
            read_once(link, cancel);
    }
}

/* ---- calls ------------------------------------------------------------------------------ */

static void wake_for_cancel(void *data)
{
    struct agent_link *link = data;
    scoped_lock(&link->lock);
    wake_all(link);
}

/* Those without a reply are given up. */
static void give_up(struct agent_link *link, const struct agent_waiter *waiter)
{
    for (unsigned i = 0; i < SLOTS; i++)
        if (link->slots[i].call && link->slots[i].call->waiter == waiter) {
            link->slots[i].call->error = -EINTR;
            link->slots[i].call = NULL;
        }
}

static void add_waiter(struct agent_link *link, struct agent_waiter *waiter)
{
    if (!link->waiters)
        link->silent_since_ms = now_ms();
    (void)pthread_cond_init(&waiter->woken, NULL);
    waiter->next = link->waiters;
    link->waiters = waiter;
}

static void remove_waiter(struct agent_link *link, struct agent_waiter *waiter)
{
    struct agent_waiter **at = &link->waiters;
    while (*at != waiter)
        at = &(*at)->next;
    *at = waiter->next;
    (void)pthread_cond_destroy(&waiter->woken);
}

/* Waits until more can be asked, the link is broken, or cancel is raised. */
static void await_room(struct agent_link *link, struct agent_waiter *waiter, struct cancel *cancel)
{
    while (is_full(link) && !cancel_is_raised(cancel)) {
        flush(link);
        if (!is_full(link)) /* nobody wakes us for what we did ourselves */
            break;
        if (link->is_read)
            (void)pthread_cond_wait(&waiter->woken, &link->lock);
        else
            read_once(link, cancel);
    }
}

/* Sends as many as there are slots for, and the others as slots come free. */
static void begin_all(struct agent_link *link, struct agent_waiter *waiter,
                      struct agent_call *calls, size_t count, struct cancel *cancel)
{
    for (size_t i = 0; i < count; i++) {
        await_room(link, waiter, cancel);
        if (cancel_is_raised(cancel)) {
            waiter->left -= count - i;
            return;
        }
        begin(link, &calls[i]);
    }
    flush(link);
}

void agent_link_call_many(struct agent_link *link, struct agent_call *calls, size_t count,
                          struct cancel *cancel)
{
    struct agent_waiter waiter = {.left = count};
    for (size_t i = 0; i < count; i++) {
        calls[i].waiter = &waiter;
        calls[i].error = -EINTR;
    }
    struct cancel_hook hook = {.run = wake_for_cancel, .data = link};
    cancel_hook_add(cancel, &hook);
    {
        scoped_lock(&link->lock);
        add_waiter(link, &waiter);
        begin_all(link, &waiter, calls, count, cancel);
        wait_for_replies(link, &waiter, cancel);
        if (waiter.left)
            give_up(link, &waiter);
        remove_waiter(link, &waiter);
        pass_on(link);
    }
    cancel_hook_remove(cancel, &hook);
    for (size_t i = 0; i < count; i++)
        calls[i].waiter = NULL;
}

int agent_link_call(struct agent_link *link, const struct agent_request *request,
                    struct cancel *cancel, struct agent_reply *ret_reply)
{
    struct agent_call call = {.request = *request};
    agent_link_call_many(link, &call, 1, cancel);
    if (call.error == 0)
        *ret_reply = call.reply;
    return call.error;
}

/* ---- life --------------------------------------------------------------------------------- */

static void link_free(struct agent_link *link)
{
    for (unsigned i = 0; i < link->fd_count; i++)
        (void)close(link->fds[i]);
    buf_done(&link->in);
    buf_done(&link->out);
    buf_done(&link->err);
    cleanup_close_impl(&link->fd);
    cleanup_close_impl(&link->wake_fd);
    (void)pthread_mutex_destroy(&link->lock);
    free(link->scratch);
    free(link);
}

static int check_hello(const struct agent_reply *hello, const char *nonce)
{
    if (hello->result != AGENT_VERSION || hello->payload.len != strlen(nonce) ||
        memcmp(buf_string(&hello->payload), nonce, hello->payload.len) != 0)
        return -EBADMSG;
    return 0;
}

/* Its own word on it, where there is one. */
static int tell_why(const struct agent_link *link, int r, struct fail *why)
{
    size_t len = link->err.len;
    while (len && link->err.data[len - 1] == '\n')
        len--;
    if (r == -EINTR || !len)
        return fail_set(why, -r, "the agent does not answer: %s", strerror(-r));
    return fail_set(why, -r, "the agent says: %.*s", (int)len, link->err.data);
}

/* The first frame comes unasked: it is waited for as if it had been asked for. */
static int await_hello(struct agent_link *link, const char *nonce, struct cancel *cancel,
                       struct fail *why)
{
    struct agent_waiter waiter = {.left = 1};
    struct agent_call call = {.request = {.type = AGENT_HELLO}, .waiter = &waiter};
    scoped_lock(&link->lock);
    add_waiter(link, &waiter);
    take_slot(link, &link->slots[HELLO_SLOT], &call);
    wait_for_replies(link, &waiter, cancel);
    if (waiter.left)
        give_up(link, &waiter);
    remove_waiter(link, &waiter);
    int r = call.error;
    if (r == 0) {
        r = check_hello(&call.reply, nonce);
        agent_reply_done(&call.reply);
    }
    return r < 0 ? tell_why(link, r, why) : 0;
}

int agent_link_open(int fd, bool is_socket, const char *nonce, struct cancel *cancel,
                    struct agent_link **ret_link, struct fail *why)
{
    struct agent_link *link cleanup_agent_link = calloc(1, sizeof(*link));
    if (!link) {
        (void)close(fd);
        return fail_errno(why, ENOMEM, "agent");
    }
    link->refs = 1;
    link->fd = fd;
    link->is_socket = is_socket;
    (void)pthread_mutex_init(&link->lock, NULL);
    buf_init(&link->in, AGENT_MAX_REPLY_BYTES + AGENT_FRAME_HEAD_BYTES + READ_BYTES);
    buf_init(&link->out, MAX_OUT_BYTES);
    buf_init(&link->err, MAX_ERR_BYTES);
    link->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    link->scratch = malloc(READ_BYTES);
    if (link->wake_fd < 0 || !link->scratch)
        return fail_errno(why, link->scratch ? errno : ENOMEM, "agent");
    int r = await_hello(link, nonce, cancel, why);
    if (r < 0)
        return r;
    *ret_link = take(link);
    return 0;
}

struct agent_link *agent_link_ref(struct agent_link *link)
{
    scoped_lock(&link->lock);
    link->refs++;
    return link;
}

void agent_link_unref(struct agent_link *link)
{
    if (!link)
        return;
    {
        scoped_lock(&link->lock);
        if (--link->refs > 0)
            return;
    }
    link_free(link);
}

void agent_link_end(struct agent_link *link)
{
    scoped_lock(&link->lock);
    break_link(link, -ENOTCONN);
}

bool agent_link_is_broken(struct agent_link *link)
{
    scoped_lock(&link->lock);
    return link->error;
}

bool agent_link_has_ended(struct agent_link *link)
{
    struct pollfd look = {.fd = link->fd, .events = POLLRDHUP};
    return agent_link_is_broken(link) || poll(&look, 1, 0) > 0;
}

bool agent_link_is_socket(const struct agent_link *link)
{
    return link->is_socket;
}

int agent_link_peer(const struct agent_link *link)
{
    struct ucred peer = {0};
    socklen_t len = sizeof(peer);
    if (!link->is_socket || getsockopt(link->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
        return 0;
    return peer.pid;
}
