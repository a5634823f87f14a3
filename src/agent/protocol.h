/* SPDX-License-Identifier: MIT */
/*
 * How a daemon talks with the agent, the small program that reads a volume from
 * within a helper container (agent/server.h).
 *
 * Over a stream of bytes in both directions: a unix socket, over which opened
 * files are handed on as descriptors (SCM_RIGHTS, unix(7)), or the container's
 * stdin and stdout.  All that is sent is frames, in both directions alike:
 *
 *   u32 bytes    of the payload behind this head
 *   u32 id       of a request: the client's choice; of a reply: the request's
 *   u16 type     enum agent_type; a reply has its request's
 *   u16 flags    of a reply: AGENT_END, AGENT_DESCRIPTOR, AGENT_WHOLE
 *   i32 result   of a reply: 0, a handle, or a negative errno of Linux; else 0
 *
 * All numbers are little-endian.  The server speaks first: a frame of type
 * AGENT_HELLO with id 0, result AGENT_VERSION, and as payload the nonce it was
 * started with.  Client and server are always of one build (the image's tag is
 * the program's hash); the version is there to find out otherwise.
 *
 * Then the client sends requests, as many as it likes before the first reply
 * (the server stops reading while it has AGENT_MAX_QUEUE of them), and the
 * server replies to each but AGENT_CLOSE, in any order.  The payload of a
 * request is always the same:
 *
 *   u64 offset, u64 dev, u64 identity, u32 handle, u32 bytes, u32 flags, u32 whence
 *   the path, with its NUL
 *
 * where what a type does not use is 0 and the path "".  Types, what they use, and
 * the payload of a reply that is no error:
 *
 *   STAT  path, flags             one record (agent/file.h) without a name
 *   LIST  path, flags, bytes      records of a directory's files, sorted, about
 *                                 `bytes` of them; AGENT_END: that was all; else
 *                                 the result is a handle for NEXT and CLOSE
 *   WALK  flags, bytes            the same for the whole tree (agent/walk.h)
 *   NEXT  handle, bytes           the next records, or AGENT_END; one request at
 *                                 a time for a handle, else -EBUSY
 *   OPEN  path, dev, identity,    a regular file, if it is the one of dev and
 *         flags, bytes            identity (file_identity; else -ESTALE).  One of
 *                                 at most `bytes` bytes comes whole, as payload,
 *                                 with AGENT_WHOLE; any other as a descriptor,
 *                                 with AGENT_DESCRIPTOR, where AGENT_WANT_FD is
 *                                 among the flags; else the result is a handle.
 *                                 With AGENT_ONE_OF_MANY it may wait for those that
 *                                 were sent just before
 *   READ  handle, offset, bytes   bytes of the file, fewer only at its end
 *   SEEK  handle, offset, whence  u64: the offset (lseek(2), SEEK_DATA, SEEK_HOLE)
 *   SYNC                          i64 seconds, u64 nanoseconds: inspect_sync
 *   CLOSE handle                  no reply, and no effect where there is no such
 *   ROOT                          the directory itself, as a descriptor with
 *                                 AGENT_DESCRIPTOR; -ENOTSUP where there is no socket,
 *                                 or it is none of inspect_is_of_this_machine
 *
 * Paths are relative to the root, which is "", and have no "." and ".." (-EXDEV).  A
 * handle is above 0; one that there is not, or of the wrong kind, is -EBADF.  A handle's
 * requests that were sent before its CLOSE are still replied to.  After AGENT_END, or an
 * error but -EBUSY, -EINVAL and -EBADF, of NEXT the handle is gone, and LIST and WALK
 * with either give none.  The payload of a reply that is an error is the path at which a
 * walk failed, else nothing.  AGENT_WANT_FD is for a socket; without one the result is a
 * handle all the same.  Descriptors come no later than the frames that tell of them, in
 * the frames' order, up to OUTPUT_BATCH (agent/output.h) with one message.
 *
 * Both sides take the other for hostile: every length is checked before it is
 * used, memory grows with what has come and not with what is announced, and
 * what makes no sense ends the connection.
 */
#ifndef DVOLFS_AGENT_PROTOCOL_H
#define DVOLFS_AGENT_PROTOCOL_H

#include "base/buf.h"

#include <stdbool.h>
#include <stdint.h>

#define AGENT_VERSION 2

enum agent_type {
    AGENT_HELLO = 1,
    AGENT_STAT,
    AGENT_LIST,
    AGENT_WALK,
    AGENT_NEXT,
    AGENT_OPEN,
    AGENT_READ,
    AGENT_SEEK,
    AGENT_SYNC,
    AGENT_CLOSE,
    AGENT_ROOT,
};

enum {
    /* Of replies. */
    AGENT_END = 1 << 0,
    AGENT_DESCRIPTOR = 1 << 1,
    AGENT_WHOLE = 1 << 2,
    /* Of AGENT_OPEN's request; the others' flags are those of agent/inspect.h. */
    AGENT_WANT_FD = 1 << 0,
    AGENT_ONE_OF_MANY = 1 << 1,
};

/* Of a request: a path as long as a record's name may be. */
#define AGENT_MAX_REQUEST_BYTES (((size_t)1 << 20) + 64)
/* Of a reply: what was asked for, and one record of the largest kind over it. */
#define AGENT_MAX_REPLY_BYTES ((size_t)24 << 20)
/* What may be asked for at once; more is -EINVAL, and so is nothing for LIST, WALK and NEXT. */
#define AGENT_MAX_BYTES ((uint32_t)1 << 20)
/* Files and listings that are open at once; more are -EMFILE. */
#define AGENT_MAX_HANDLES 1024
#define AGENT_MAX_QUEUE 256
/* Of the nonce, in hexadecimal digits. */
#define AGENT_NONCE_BYTES 32

struct agent_frame {
    uint32_t id;
    uint16_t type;
    uint16_t flags;
    int32_t result;
    const char *payload;
    size_t bytes;
};
#define AGENT_FRAME_HEAD_BYTES 16

/* The head of a frame whose payload (below 4 GiB) is sent from where it is. */
void agent_frame_head(const struct agent_frame *frame, char ret_head[AGENT_FRAME_HEAD_BYTES]);

/* Adds a frame.  -ENOMEM, -EMSGSIZE. */
must_check int agent_frame_write(struct buf *out, const struct agent_frame *frame);

/*
 * Takes the frame at *position of the bytes that have come and moves on: 1, or 0
 * where it is not complete yet.  -EBADMSG: it has over max_bytes of payload, or
 * no such type.  The payload points into data.
 */
must_check int agent_frame_read(const char *data, size_t len, size_t *position, size_t max_bytes,
                                struct agent_frame *ret_frame);

struct agent_request {
    uint32_t id;
    uint16_t type;
    uint64_t offset;
    uint64_t dev;
    uint64_t identity;
    uint32_t handle;
    uint32_t bytes;
    uint32_t flags;
    uint32_t whence;
    const char *path;
};

/* Adds a request's frame; a NULL path is "".  -ENOMEM, -EMSGSIZE. */
must_check int agent_request_write(struct buf *out, const struct agent_request *request);

/*
 * Takes a request's frame apart; the path points into it.  -EBADMSG: it is none
 * (a server's type, a payload that is too short, a path without its NUL or with
 * another, a result or flags in the head).
 */
must_check int agent_request_read(const struct agent_frame *frame, struct agent_request *ret);

#endif
