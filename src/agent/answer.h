/* SPDX-License-Identifier: MIT */
/* What the agent answers to one request; agent/server.h has the threads and the wire. */
#ifndef DVOLFS_AGENT_ANSWER_H
#define DVOLFS_AGENT_ANSWER_H

#include "agent/handles.h"
#include "agent/output.h"

struct answers {
    int root;               /* the directory; the caller's */
    bool hands_descriptors; /* the way back takes them */
    struct handles *handles;
};

/*
 * Does what is asked and fills the reply to it.  Blocks on the disk.  handle: the
 * one that the request names, held, and for AGENT_NEXT claimed; NULL: there is no
 * such.  Any thread may call.
 */
void answer(const struct answers *answers, const struct agent_request *request,
            struct handle *handle, struct reply *reply);

#endif
