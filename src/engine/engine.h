/* SPDX-License-Identifier: MIT */
/*
 * A Docker engine, reached through its HTTP API: what the families of calls
 * (volumes, containers, images, archive, events, system) share.
 *
 * Any thread may call; every call blocks until the engine answered, a limit
 * passed or its cancel was raised.  Errors of every call, beside its own:
 *   -EHOSTDOWN no engine there · -EACCES no right to it · -ETIMEDOUT it does not
 *   answer · -EINTR cancelled · -EIO the connection broke, the engine reports an
 *   inner error (500), or its answer makes no sense · -ENOMEM
 * and from its statuses: 400 -EINVAL, 403 -EPERM, 404 -ENOENT, 409 -EBUSY,
 * 503 -EAGAIN.  The engine's own message is in why.
 *
 * Source of requests and answers: the Docker Engine API reference, v1.41.
 */
#ifndef DVOLFS_ENGINE_ENGINE_H
#define DVOLFS_ENGINE_ENGINE_H

#include "base/cancel.h"
#include "base/fail.h"
#include "engine/http.h"

/* Calls that the engine answers from memory. */
#define ENGINE_DEADLINE_MS 20000
/* The first word: a mount on a hung engine should not take long to fail. */
#define ENGINE_PING_MS 5000
/* Streams: between two bytes. */
#define ENGINE_SILENCE_MS 60000

struct engine;

/*
 * The engine at endpoint: "unix:///path".  Not spoken to yet.
 * -EINVAL: another kind of endpoint.
 */
must_check int engine_open(const char *endpoint, struct engine **ret_engine, struct fail *why);

/* No call may be under way.  NULL is allowed. */
void engine_close(struct engine *engine);

/* The endpoint as given.  Lives as long as the engine. */
const char *engine_endpoint(const struct engine *engine);

/*
 * Asks which API version is spoken there, and speaks the lower of that and ours
 * from now on.  To be called before any other call, and again after the engine
 * was lost: it may have come back as another version.
 */
must_check int engine_negotiate(struct engine *engine, struct cancel *cancel, struct fail *why);

/* Writes the version spoken, "1.41", or "" before engine_negotiate. */
void engine_api_version(struct engine *engine, char ret_version[16]);

/* A new connection to the engine's socket, non-blocking, the caller's; -EHOSTDOWN,
 * -EACCES, -errno of connect(2).  Blocks for a moment at most. */
must_check int engine_connect(const struct engine *engine, struct fail *why);

/*
 * The process that listens at the engine's socket (SO_PEERCRED, unix(7)), as
 * this pid namespace numbers it; > 0.  -ESRCH: it has no number here;
 * -errno of connect(2).  Blocks for a moment at most.
 */
must_check int engine_peer(const struct engine *engine, struct fail *why);

/*
 * One exchange at the negotiated version (request->path starts after it), with
 * any status but 2xx turned into an error.  Deadline and silence are the
 * request's own.  *ret_response may be NULL where its body does not matter.
 */
must_check int engine_call(struct engine *engine, const struct http_request *request,
                           struct http_response *ret_response, struct fail *why);

/*
 * One exchange without a body: method on path_format, in which %s is `name` (escaped
 * here).  *ret_response may be NULL where the answer does not matter.  Errors of
 * engine_call.
 */
must_check int engine_command(struct engine *engine, const char *method, const char *path_format,
                              const char *name, struct cancel *cancel,
                              struct http_response *ret_response, struct fail *why);

/* A name as a part of a path or query (RFC 3986); malloc'ed, NULL without memory. */
must_check char *engine_escape(const char *text);

#endif
