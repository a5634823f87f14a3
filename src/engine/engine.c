/* SPDX-License-Identifier: MIT */
#include "engine/engine.h"

#include "engine/json.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

/*
 * What this code was written against.  Engines 29.0 to 29.2 take nothing below
 * 1.44, Debian's 20.10 nothing above 1.41 (moby daemon/config).
 */
#define OUR_API_MINOR 44
#define API_MAJOR 1

struct engine {
    char *endpoint;
    struct http *http;
    pthread_mutex_t lock;
    char version[16];
};

int engine_open(const char *endpoint, struct engine **ret_engine, struct fail *why)
{
    static const char scheme[] = "unix://";
    if (strncmp(endpoint, scheme, sizeof(scheme) - 1) != 0 || endpoint[sizeof(scheme) - 1] != '/')
        return fail_set(why, EINVAL, "%s: only unix:///path/to/docker.sock can be reached",
                        endpoint);
    struct engine *engine = calloc(1, sizeof(*engine));
    if (!engine)
        return fail_errno(why, ENOMEM, "%s", endpoint);
    (void)pthread_mutex_init(&engine->lock, NULL);
    engine->endpoint = strdup(endpoint);
    int r = engine->endpoint ? http_new(endpoint + sizeof(scheme) - 1, &engine->http, why)
                             : fail_errno(why, ENOMEM, "%s", endpoint);
    if (r < 0) {
        engine_close(engine);
        return r;
    }
    *ret_engine = engine;
    return 0;
}

void engine_close(struct engine *engine)
{
    if (!engine)
        return;
    http_free(engine->http);
    (void)pthread_mutex_destroy(&engine->lock);
    free(engine->endpoint);
    free(engine);
}

const char *engine_endpoint(const struct engine *engine)
{
    return engine->endpoint;
}

int engine_negotiate(struct engine *engine, struct cancel *cancel, struct fail *why)
{
    struct http_response response cleanup_http_response = {0};
    /* GET, not HEAD: before 20.10 HEAD was not answered; unversioned by definition. */
    int r = http_exchange(
        engine->http,
        &(struct http_request){
            .method = "GET", .path = "/_ping", .deadline_ms = ENGINE_PING_MS, .cancel = cancel},
        &response, why);
    if (r < 0)
        return r;
    int major = 0, minor = 0;
    if (sscanf(response.api_version, "%d.%d", &major, &minor) != 2 || major != API_MAJOR)
        return fail_set(why, EPROTO, "%s does not answer as a Docker engine", engine->endpoint);
    scoped_lock(&engine->lock);
    (void)snprintf(engine->version, sizeof(engine->version), "%d.%d", API_MAJOR,
                   minor < OUR_API_MINOR ? minor : OUR_API_MINOR);
    return 0;
}

void engine_api_version(struct engine *engine, char ret_version[16])
{
    scoped_lock(&engine->lock);
    memcpy(ret_version, engine->version, sizeof(engine->version));
}

int engine_connect(const struct engine *engine, struct fail *why)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = engine->endpoint + sizeof("unix://") - 1;
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return take_fd(&fd);
    bool is_down = errno == ECONNREFUSED || errno == ENOENT || errno == EAGAIN;
    return fail_errno(why, is_down ? EHOSTDOWN : errno, "%s", path);
}

int engine_peer(const struct engine *engine, struct fail *why)
{
    cleanup_close int fd = engine_connect(engine, why);
    if (fd < 0)
        return fd;
    struct ucred peer;
    socklen_t len = sizeof(peer);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
        return fail_errno(why, errno, "%s", engine->endpoint);
    return peer.pid > 0 ? peer.pid : fail_set(why, ESRCH, "the engine is in another pid namespace");
}

static int status_to_errno(int status)
{
    switch (status) {
    case 400:
        return EINVAL;
    case 401:
    case 403:
        return EPERM;
    case 404:
        return ENOENT;
    case 409:
        return EBUSY;
    case 503:
        return EAGAIN;
    default:
        return EIO;
    }
}

/* {"message": "..."} is what every error of the API looks like. */
static int refused(const struct http_response *response, struct fail *why)
{
    cJSON *json cleanup_json = json_parse(buf_string(&response->body), response->body.len);
    const char *message = json_string(json, "message");
    return fail_set(why, status_to_errno(response->status), "the engine says: %s (status %d)",
                    message ? message : "nothing", response->status);
}

int engine_call(struct engine *engine, const struct http_request *request,
                struct http_response *ret_response, struct fail *why)
{
    char version[16];
    engine_api_version(engine, version);
    cleanup_free char *path = NULL;
    if (asprintf(&path, "/v%s%s", version, request->path) < 0) {
        path = NULL;
        return fail_errno(why, ENOMEM, "%s", request->path);
    }
    struct http_request versioned = *request;
    versioned.path = path;
    struct http_response response cleanup_http_response = {0};
    int r = http_exchange(engine->http, &versioned, &response, why);
    if (r < 0)
        return r;
    if (response.status < 200 || response.status >= 300)
        return refused(&response, why);
    if (ret_response) {
        *ret_response = response;
        response = (struct http_response){0};
    }
    return 0;
}

char *engine_escape(const char *text)
{
    struct buf out cleanup_buf;
    buf_init(&out, 8192);
    for (const char *at = text; *at; at++) {
        unsigned char c = (unsigned char)*at;
        int plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                    strchr("-._~", c);
        if ((plain ? buf_add(&out, at, 1) : buf_printf(&out, "%%%02X", c)) < 0)
            return NULL;
    }
    return buf_take(&out);
}

int engine_command(struct engine *engine, const char *method, const char *path_format,
                   const char *name, struct cancel *cancel, struct http_response *ret_response,
                   struct fail *why)
{
    const char *place = strstr(path_format, "%s");
    cleanup_free char *escaped = engine_escape(name);
    cleanup_free char *path = NULL;
    if (!escaped || asprintf(&path, "%.*s%s%s", (int)(place - path_format), path_format, escaped,
                             place + 2) < 0) {
        path = NULL;
        return fail_errno(why, ENOMEM, "%s", name);
    }
    return engine_call(
        engine,
        &(struct http_request){
            .method = method, .path = path, .deadline_ms = ENGINE_DEADLINE_MS, .cancel = cancel},
        ret_response, why);
}
