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
    int in, out;       /* may be the same; stay the caller's */
    bool is_socket;    /* out is a unix socket: descriptors may be asked for */
    const char *nonce; /* what HELLO tells */
    unsigned threads;  /* that work on requests */
};

/*
 * Serves until `in` ends: 0.  -EBADMSG: what came is not the protocol;
 * -errno of reading or writing; -ENOMEM.  Whatever was open is closed, and no
 * thread is left.  SIGPIPE must be ignored.
 */
must_check int agent_serve(const struct agent_server *server);

#endif
