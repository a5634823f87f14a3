/* SPDX-License-Identifier: MIT */
/*
 * The way back of a server (agent/server.h): replies of many threads, one after
 * the other, in one stream.
 *
 * Who adds a reply where nobody is writing writes it, and all that others add
 * meanwhile; so many replies go with one call.  Where the other side is slow,
 * those who add wait once OUTPUT_MAX_BYTES are to be written.  Any thread may add.
 */
#ifndef DVOLFS_AGENT_OUTPUT_H
#define DVOLFS_AGENT_OUTPUT_H

#include "agent/protocol.h"
#include "base/cancel.h"

#define OUTPUT_MAX_BYTES ((size_t)8 << 20)
/* Replies, and so descriptors, in one message; the kernel takes up to 253. */
#define OUTPUT_BATCH 64

/* A reply being made, then on its way. */
struct reply {
    uint32_t id;
    uint16_t type;
    uint16_t flags;
    int32_t result;
    struct buf payload;
    int fd; /* to hand on; -1: none */

    struct reply *next;
    char head[AGENT_FRAME_HEAD_BYTES];
};

/* An empty reply, its payload limited to AGENT_MAX_REPLY_BYTES.  NULL: -ENOMEM. */
must_check struct reply *reply_new(uint32_t id, uint16_t type);
void reply_free(struct reply *reply);
DEFINE_CLEANUP(cleanup_reply_impl, struct reply, reply_free)
#define cleanup_reply cleanup(cleanup_reply_impl)

struct output {
    int fd;
    bool is_socket;
    struct cancel *broken; /* raised at the first failure; the caller's */

    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t written;
    struct reply *first;
    struct reply **last;
    size_t bytes; /* not written yet */
    bool is_writing;
    int error;
};

void output_init(struct output *output, int fd, bool is_socket, struct cancel *broken);
/* Nobody adds any more, so everything is written. */
void output_done(struct output *output);

/*
 * Adds a reply and takes it over; waits as long as too much is there.  After a
 * failure replies are dropped.
 */
void output_add(struct output *output, struct reply *reply);

/* A failure to be told by output_error, unless there was one. */
void output_fail(struct output *output, int error);

/* The first failure, a negative errno; 0: none. */
int output_error(struct output *output);

#endif
