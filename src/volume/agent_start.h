/* SPDX-License-Identifier: MIT */
/*
 * Starting one agent: a helper container that runs it, and the connection to it.
 *
 * The helper gets a unix socket at which we listen, and its stdin and stdout are
 * attached.  Where the agent can connect to the socket, it and we share a kernel,
 * and files come as descriptors; else it speaks by its stdout.
 *
 * The sockets are in a directory that nobody else can enter (0700, below /run or
 * $XDG_RUNTIME_DIR).  Any thread may call.
 */
#ifndef DVOLFS_VOLUME_AGENT_START_H
#define DVOLFS_VOLUME_AGENT_START_H

#include "volume/agent_link.h"
#include "volume/helper.h"

struct starter;

/* with_socket: false: always by stdout.  Makes no directory yet, but removes
 * those of processes that died.  NULL: -ENOMEM.  helpers must outlive it. */
must_check struct starter *starter_new(struct helpers *helpers, bool with_socket);
/* The engine may be another now: a socket is tried again. */
void starter_reconsider(struct starter *starter);
/* Removes the directory.  NULL is allowed. */
void starter_free(struct starter *starter);

/*
 * Starts an agent on the volume and waits for its first word.  The caller first
 * unrefs the link, then closes the helper.  -ENOENT: there is no such volume;
 * -EINTR; errors of the engine; -ENOTCONN, -EBADMSG, -ETIMEDOUT: the agent does not
 * answer.  Blocks.
 */
must_check int starter_run(struct starter *starter, const char *volume, struct cancel *cancel,
                           struct helper **ret_helper, struct agent_link **ret_link,
                           struct fail *why);

#endif
