/* SPDX-License-Identifier: MIT */
/*
 * A container's stdin, stdout and stderr over one connection.
 *
 * Source: Docker Engine API v1.41, ContainerAttach, "Hijacking" and "Stream
 * format".  Errors as engine/engine.h says.
 */
#ifndef DVOLFS_ENGINE_ATTACH_H
#define DVOLFS_ENGINE_ATTACH_H

#include "engine/engine.h"

#include <stdint.h>

/*
 * Attaches to a container that was made with OpenStdin and without Tty: a
 * connected socket, non-blocking, the caller's.  What is written to it is the
 * container's stdin; what is read is to be taken apart by attach_take.  To be
 * called before the container is started, or what it says first is lost.
 */
must_check int engine_container_attach(struct engine *engine, const char *id, struct cancel *cancel,
                                       struct fail *why);

/* How far a connection's bytes have been taken apart; zeros at first. */
struct attach_state {
    unsigned char head[8];
    unsigned head_bytes;
    uint32_t left; /* of the current part */
};

/*
 * Adds what is stdout among the next bytes of the connection to out, and what is
 * stderr to err, as far as there is room in that.  -EBADMSG: these are no such
 * bytes; -ENOMEM, -EMSGSIZE: of out.
 */
must_check int attach_take(struct attach_state *state, const void *bytes, size_t len,
                           struct buf *out, struct buf *err);

#endif
