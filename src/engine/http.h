/* SPDX-License-Identifier: MIT */
/*
 * HTTP/1.1 to one endpoint over a unix socket, by libcurl.
 *
 * A client keeps a pool of connections; any thread may use it, each exchange
 * blocks the thread that asks.  Nothing waits without bound: an exchange has a
 * deadline, a limit on silence, or both, and a cancel ends it at once.
 */
#ifndef DVOLFS_ENGINE_HTTP_H
#define DVOLFS_ENGINE_HTTP_H

#include "base/buf.h"
#include "base/cancel.h"
#include "base/fail.h"

#include <sys/types.h>

/* The largest response that is collected in memory. */
#define HTTP_MAX_BODY_BYTES ((size_t)64 << 20)

struct http;

/*
 * Takes the next bytes of a response (all of them, or a negative errno, which
 * ends the exchange and is its result; set why).
 */
typedef int http_sink_fn(void *data, const void *bytes, size_t len, struct fail *why);

/* Gives the next bytes of a request: their number, 0 at the end, or a negative errno. */
typedef ssize_t http_source_fn(void *data, void *bytes, size_t max_bytes, struct fail *why);

struct http_request {
    const char *method; /* "GET", "POST", ... */
    const char *path;   /* from '/', query included */

    /* The body: none, or these bytes, or what source gives (sent chunked). */
    const char *content_type;
    const void *body;
    size_t body_bytes;
    http_source_fn *source;
    void *source_data;

    /* Where the body of a successful response goes; NULL: into the response. */
    http_sink_fn *sink;
    void *sink_data;

    /* Called once when the header of a successful response is complete; may be NULL. */
    void (*started)(void *data);
    void *started_data;

    unsigned deadline_ms; /* for the whole exchange; 0: none */
    unsigned silence_ms;  /* without a byte in either direction; 0: any */
    struct cancel *cancel;
};

struct http_response {
    int status;
    char api_version[16]; /* of the header Api-Version, "" without it */
    struct buf body;      /* of a failure, or of a success without a sink */
};

/* Frees the body.  NULL is allowed. */
void http_response_done(struct http_response *response);
#define cleanup_http_response cleanup(http_response_done)

/*
 * A client for the unix socket at path, copied.  Connects to nothing yet.
 * -ENAMETOOLONG: longer than sockaddr_un takes (unix(7)); -ENOMEM.
 * curl_global_init must have been called.
 */
must_check int http_new(const char *socket_path, struct http **ret_http, struct fail *why);

/* Frees it; no exchange may be under way.  NULL is allowed. */
void http_free(struct http *http);

/*
 * One exchange.  0 with *ret_response filled whatever the status (the caller
 * calls http_response_done), else untouched:
 *   -EHOSTDOWN  no such socket, or nobody answers there
 *   -EACCES     the socket may not be opened
 *   -ETIMEDOUT  deadline or silence
 *   -EINTR      cancelled
 *   -EMSGSIZE   the response is over HTTP_MAX_BODY_BYTES
 *   -EIO        the connection broke, or what came is not HTTP
 *   what source or sink returned
 */
must_check int http_exchange(struct http *http, const struct http_request *request,
                             struct http_response *ret_response, struct fail *why);

#endif
