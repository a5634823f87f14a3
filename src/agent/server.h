/* SPDX-License-Identifier: MIT */
/*
 * The agent's side of agent/protocol.h: answers requests about the tree below
 * one directory, several at once, until the other side is gone.
 */
#ifndef DVOLFS_AGENT_SERVER_H
#define DVOLFS_AGENT_SERVER_H

#include "base/cleanup.h"

#include <stdbool.h>

struct agent_server {
    int root;          /* the directory; stays the caller's */
    int in, out;       /* blocking; may be the same; stay the caller's */
    bool is_socket;    /* out is a unix socket: descriptors may be asked for */
    const char *nonce; /* what HELLO tells */
    unsigned threads;  /* that work on requests: 2, so that none is stuck, up to 64 */
};

/*
 * Serves until `in` ends, and replies to what has come till then: 0.  -EBADMSG:
 * what came is not the protocol, or ended within a request; -errno of reading or
 * writing; -ENOMEM; -EAGAIN: no threads.  Whatever was open is closed, and no
 * thread is left.  SIGPIPE must be ignored.
 */
must_check int agent_serve(const struct agent_server *conf);

#endif
