/* SPDX-License-Identifier: MIT */
/*
 * The daemon's side of agent/protocol.h: one connection to an agent, over which
 * any number of threads have calls under way.
 *
 * All that comes is checked as if it were hostile.  What is not the protocol
 * breaks the link, and so do the connection's end and AGENT_SILENCE_MS without
 * a byte while somebody waits; a broken link stays broken.
 *
 * Any thread may call.
 */
#ifndef DVOLFS_VOLUME_AGENT_LINK_H
#define DVOLFS_VOLUME_AGENT_LINK_H

#include "agent/protocol.h"
#include "base/cancel.h"
#include "base/fail.h"

#define AGENT_SILENCE_MS 60000

struct agent_link;

/* What an agent answered.  A descriptor is that of a regular file; to AGENT_ROOT, of a
 * directory. */
struct agent_reply {
    int32_t result;
    unsigned flags;
    struct buf payload;
    int fd; /* -1: none */
};
#define AGENT_REPLY_INIT                                                                           \
    {                                                                                              \
        .fd = -1                                                                                   \
    }

/* Frees the payload and closes the descriptor, unless it was taken (and is -1). */
void agent_reply_done(struct agent_reply *reply);
#define cleanup_agent_reply cleanup(agent_reply_done)

/* A request and what became of it: error is that of the call itself, see
 * agent_link_call; where it is 0, reply is the caller's to be done with. */
struct agent_call {
    struct agent_request request; /* id is set by the link */
    int error;
    struct agent_reply reply;

    struct agent_waiter *waiter; /* the link's own */
};

/*
 * Takes fd (also on failure): a unix socket to the agent, or where is_socket is
 * not set a connection as of engine_container_attach.  Waits for the agent's
 * HELLO.  -ENOTCONN: it ended instead; -EBADMSG: another agent than that of the
 * nonce, or none; -ETIMEDOUT, -EINTR, -ENOMEM.
 */
must_check int agent_link_open(int fd, bool is_socket, const char *nonce, struct cancel *cancel,
                               struct agent_link **ret_link, struct fail *why);
struct agent_link *agent_link_ref(struct agent_link *link);
/* The last one closes the connection.  NULL is allowed. */
void agent_link_unref(struct agent_link *link);
DEFINE_CLEANUP(cleanup_agent_link_impl, struct agent_link, agent_link_unref)
#define cleanup_agent_link cleanup(cleanup_agent_link_impl)

/* Breaks it: the agent ends, even while others still have references. */
void agent_link_end(struct agent_link *link);
bool agent_link_is_broken(struct agent_link *link);

/* Whether the agent is gone, also where nobody waits for an answer, who would have noticed.
 * Does not block. */
bool agent_link_has_ended(struct agent_link *link);

/* Whether descriptors can be asked for. */
bool agent_link_is_socket(const struct agent_link *link);

/* The process at the other end of a socket (SO_PEERCRED, unix(7)), as it is known here; 0:
 * it is not, or there is no socket. */
int agent_link_peer(const struct agent_link *link);

/*
 * Sends the requests at once and waits for all of their replies.  error of each:
 * 0; -ENOTCONN: the link is broken; -ETIMEDOUT: broken by silence; -EBADMSG: by
 * what is not the protocol; -EINTR; -ENOMEM; -EMSGSIZE: no request is that long.
 */
void agent_link_call_many(struct agent_link *link, struct agent_call *calls, size_t count,
                          struct cancel *cancel);

/* One request: 0 with *ret_reply, whose result may be an error of the agent's, or
 * an error of the call. */
must_check int agent_link_call(struct agent_link *link, const struct agent_request *request,
                               struct cancel *cancel, struct agent_reply *ret_reply);

/* Tells the agent to close a handle.  Does not wait. */
void agent_link_close_handle(struct agent_link *link, uint32_t handle);

#endif
