/* SPDX-License-Identifier: MIT */
#include "agent/output.h"

#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* Each reply's head and payload. */
#define BATCH_PIECES (2 * OUTPUT_BATCH)
_Static_assert(BATCH_PIECES <= IOV_MAX, "one call takes a batch");

/* How long to let the other side take descriptors out, before trying again. */
#define CROWDED_MS 10

/* What one batch has left to write. */
struct batch {
    struct iovec pieces[BATCH_PIECES];
    size_t first, count;
    int fds[OUTPUT_BATCH];
    size_t fd_count;
};

struct reply *reply_new(uint32_t id, uint16_t type)
{
    struct reply *reply = calloc(1, sizeof(*reply));
    if (!reply)
        return NULL;
    reply->id = id;
    reply->type = type;
    reply->fd = -1;
    buf_init(&reply->payload, AGENT_MAX_REPLY_BYTES);
    return reply;
}

void reply_free(struct reply *reply)
{
    if (!reply)
        return;
    cleanup_close_impl(&reply->fd);
    buf_done(&reply->payload);
    free(reply);
}

static size_t bytes_of(const struct reply *reply)
{
    return sizeof(reply->head) + reply->payload.len;
}

static void free_list(struct reply *reply)
{
    while (reply) {
        struct reply *next = reply->next;
        reply_free(reply);
        reply = next;
    }
}

/* ---- writing ------------------------------------------------------------------- */

static void add_piece(struct batch *batch, void *data, size_t len)
{
    if (len)
        batch->pieces[batch->count++] = (struct iovec){.iov_base = data, .iov_len = len};
}

static void fill_batch(struct batch *batch, struct reply *reply)
{
    batch->first = batch->count = batch->fd_count = 0;
    for (; reply; reply = reply->next) {
        add_piece(batch, reply->head, sizeof(reply->head));
        add_piece(batch, reply->payload.data, reply->payload.len);
        if (reply->fd >= 0)
            batch->fds[batch->fd_count++] = reply->fd;
    }
}

/* Descriptors go with the first byte, so before the frames that tell of them. */
static ssize_t send_pieces(int fd, struct batch *batch)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(OUTPUT_BATCH * sizeof(int))];
    } control = {0};
    struct msghdr message = {.msg_iov = batch->pieces + batch->first,
                             .msg_iovlen = batch->count - batch->first};
    size_t fd_bytes = batch->fd_count * sizeof(int);
    if (fd_bytes) {
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(fd_bytes);
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(fd_bytes);
        memcpy(CMSG_DATA(&control.head), batch->fds, fd_bytes);
    }
    return sendmsg(fd, &message, MSG_NOSIGNAL);
}

/* Moves on over what was written; the descriptors have gone with it. */
static void drop_written(struct batch *batch, size_t n)
{
    batch->fd_count = 0;
    while (n && batch->first < batch->count) {
        struct iovec *piece = &batch->pieces[batch->first];
        size_t len = n < piece->iov_len ? n : piece->iov_len;
        piece->iov_base = (char *)piece->iov_base + len;
        piece->iov_len -= len;
        n -= len;
        if (!piece->iov_len)
            batch->first++;
    }
}

static int write_batch(const struct output *output, struct batch *batch)
{
    while (batch->first < batch->count) {
        ssize_t n = output->is_socket ? send_pieces(output->fd, batch)
                                      : writev(output->fd, batch->pieces + batch->first,
                                               (int)(batch->count - batch->first));
        if (n >= 0) {
            drop_written(batch, (size_t)n);
        } else if (errno == ETOOMANYREFS) { /* of descriptors that nobody took yet: unix(7) */
            struct pollfd other = {.fd = output->fd};
            (void)poll(&other, 1, CROWDED_MS);
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

/* With the lock held: takes a batch of replies off the list, as a list. */
static struct reply *take_batch(struct output *output)
{
    struct reply *list = output->first, **end = &list;
    for (size_t i = 0; *end && i < OUTPUT_BATCH; i++)
        end = &(*end)->next;
    output->first = take(*end);
    if (!output->first)
        output->last = &output->first;
    return list;
}

/* With the lock held, which is let go meanwhile: writes until nothing is left. */
static void write_all(struct output *output)
{
    struct batch batch;
    struct reply *list;
    output->is_writing = true;
    while ((list = take_batch(output))) {
        int r = output->error;
        (void)pthread_mutex_unlock(&output->lock);
        size_t bytes = 0;
        for (const struct reply *reply = list; reply; reply = reply->next)
            bytes += bytes_of(reply);
        fill_batch(&batch, list);
        if (r == 0 && (r = write_batch(output, &batch)) < 0)
            output_fail(output, r);
        free_list(list);
        (void)pthread_mutex_lock(&output->lock);
        output->bytes -= bytes;
        (void)pthread_cond_broadcast(&output->written);
    }
    output->is_writing = false;
}

/* ---- adding -------------------------------------------------------------------- */

void output_init(struct output *output, int fd, bool is_socket, struct cancel *broken)
{
    *output = (struct output){.fd = fd, .is_socket = is_socket, .broken = broken};
    output->last = &output->first;
    (void)pthread_mutex_init(&output->lock, NULL);
    (void)pthread_cond_init(&output->written, NULL);
}

void output_done(struct output *output)
{
    (void)pthread_cond_destroy(&output->written);
    (void)pthread_mutex_destroy(&output->lock);
}

void output_add(struct output *output, struct reply *reply)
{
    const struct agent_frame frame = {.id = reply->id,
                                      .type = reply->type,
                                      .flags = reply->flags,
                                      .result = reply->result,
                                      .bytes = reply->payload.len};
    agent_frame_head(&frame, reply->head);
    scoped_lock(&output->lock);
    while (output->is_writing && output->bytes > OUTPUT_MAX_BYTES && output->error == 0)
        (void)pthread_cond_wait(&output->written, &output->lock);
    reply->next = NULL;
    *output->last = reply;
    output->last = &reply->next;
    output->bytes += bytes_of(reply);
    if (!output->is_writing)
        write_all(output);
}

void output_fail(struct output *output, int error)
{
    {
        scoped_lock(&output->lock);
        if (output->error == 0)
            output->error = error;
        (void)pthread_cond_broadcast(&output->written);
    }
    cancel_raise(output->broken);
}

int output_error(struct output *output)
{
    scoped_lock(&output->lock);
    return output->error;
}
