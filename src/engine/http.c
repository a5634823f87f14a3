/* SPDX-License-Identifier: MIT */
/*
 * Each exchange drives one easy handle in a multi handle of its own, because
 * only curl_multi_poll(3) can also wait for the cancel's descriptor.  The pair
 * is kept in a pool, and with it its connection.
 */
#include "engine/http.h"

#include <curl/curl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/un.h>
#include <time.h>

/* Idle pairs kept; each is a connection and two small handles. */
#define MAX_IDLE 8
/* A small call's connection must be made within this; it is a local socket. */
#define CONNECT_MS 5000L
/* libcurl hands at most this much to a source or sink at once. */
#define TRANSFER_BYTES (256L * 1024)

struct pair {
    CURL *easy;
    CURLM *multi;
    struct pair *next;
};

struct http {
    char *socket_path;
    pthread_mutex_t lock;
    struct pair *idle;
    unsigned idle_count;
};

/* The state of one exchange, seen by libcurl's callbacks. */
struct exchange {
    const struct http_request *request;
    struct http_response response;
    struct fail *why;
    int result; /* of a callback that failed */
    bool collect_failed;
    int64_t last_byte_ms;
    CURL *easy;
};

static int64_t now_ms(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void http_response_done(struct http_response *response)
{
    if (response)
        buf_done(&response->body);
}

/* ---- the pool -------------------------------------------------------- */

static void pair_free(struct pair *pair)
{
    if (pair->easy)
        curl_easy_cleanup(pair->easy);
    if (pair->multi)
        (void)curl_multi_cleanup(pair->multi);
    free(pair);
}
DEFINE_CLEANUP(cleanup_pair_impl, struct pair, pair_free)

static struct pair *pair_get(struct http *http)
{
    {
        scoped_lock(&http->lock);
        struct pair *idle = http->idle;
        if (idle) {
            http->idle = idle->next;
            http->idle_count--;
            return idle;
        }
    }
    struct pair *pair cleanup(cleanup_pair_impl) = calloc(1, sizeof(*pair));
    if (!pair)
        return NULL;
    pair->easy = curl_easy_init();
    pair->multi = curl_multi_init();
    return pair->easy && pair->multi ? take(pair) : NULL;
}

static void pair_put(struct http *http, struct pair *pair)
{
    curl_easy_reset(pair->easy); /* keeps the connection, which is the multi's */
    {
        scoped_lock(&http->lock);
        if (http->idle_count < MAX_IDLE) {
            pair->next = http->idle;
            http->idle = pair;
            http->idle_count++;
            return;
        }
    }
    pair_free(pair);
}

int http_new(const char *socket_path, struct http **ret_http, struct fail *why)
{
    if (strlen(socket_path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
        return fail_set(why, ENAMETOOLONG, "%s: a socket's path has at most 107 bytes",
                        socket_path);
    struct http *http = calloc(1, sizeof(*http));
    if (!http || !(http->socket_path = strdup(socket_path))) {
        free(http);
        return fail_errno(why, ENOMEM, "%s", socket_path);
    }
    (void)pthread_mutex_init(&http->lock, NULL);
    *ret_http = http;
    return 0;
}

void http_free(struct http *http)
{
    if (!http)
        return;
    struct pair *next;
    for (struct pair *pair = http->idle; pair; pair = next) {
        next = pair->next;
        pair_free(pair);
    }
    (void)pthread_mutex_destroy(&http->lock);
    free(http->socket_path);
    free(http);
}

/* ---- libcurl's callbacks --------------------------------------------- */

static bool is_success(struct exchange *x)
{
    long status = 0;
    (void)curl_easy_getinfo(x->easy, CURLINFO_RESPONSE_CODE, &status);
    return status >= 200 && status < 300;
}

static size_t on_header(char *line, size_t size, size_t count, void *data)
{
    static const char name[] = "api-version:";
    struct exchange *x = data;
    size_t len = size * count;
    x->last_byte_ms = now_ms();
    if (len == 2 && line[0] == '\r' && x->request->started && is_success(x))
        x->request->started(x->request->started_data);
    if (len <= sizeof(name) || strncasecmp(line, name, sizeof(name) - 1) != 0)
        return len;
    size_t from = sizeof(name) - 1, used = 0;
    while (from < len && line[from] == ' ')
        from++;
    while (from < len && line[from] > ' ' && used < sizeof(x->response.api_version) - 1)
        x->response.api_version[used++] = line[from++];
    x->response.api_version[used] = '\0';
    return len;
}

static size_t on_body(char *bytes, size_t size, size_t count, void *data)
{
    struct exchange *x = data;
    size_t len = size * count;
    x->last_byte_ms = now_ms();
    if (x->request->sink && is_success(x))
        x->result = x->request->sink(x->request->sink_data, bytes, len, x->why);
    else if ((x->result = buf_add(&x->response.body, bytes, len)) < 0)
        x->collect_failed = true;
    return x->result < 0 ? 0 : len;
}

static size_t on_read(char *bytes, size_t size, size_t count, void *data)
{
    struct exchange *x = data;
    ssize_t n = x->request->source(x->request->source_data, bytes, size * count, x->why);
    /* The source may have worked for long: that was not the engine's silence. */
    x->last_byte_ms = now_ms();
    if (n < 0) {
        x->result = (int)n;
        return CURL_READFUNC_ABORT;
    }
    return (size_t)n;
}

/* ---- one exchange ---------------------------------------------------- */

#define SET(option, value) ok = ok && curl_easy_setopt(easy, option, value) == CURLE_OK

static bool set_body(CURL *easy, struct exchange *x)
{
    const struct http_request *request = x->request;
    bool ok = true;
    if (request->source) {
        SET(CURLOPT_UPLOAD, 1L);
        SET(CURLOPT_READFUNCTION, on_read);
        SET(CURLOPT_READDATA, (void *)x);
        SET(CURLOPT_UPLOAD_BUFFERSIZE, TRANSFER_BYTES);
    } else if (strcmp(request->method, "POST") == 0) {
        SET(CURLOPT_POST, 1L);
        SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_bytes);
        SET(CURLOPT_POSTFIELDS, request->body_bytes ? request->body : "");
    } else if (strcmp(request->method, "HEAD") == 0) {
        SET(CURLOPT_NOBODY, 1L);
    }
    return ok;
}

static bool set_options(struct http *http, CURL *easy, struct exchange *x, const char *url,
                        struct curl_slist *headers)
{
    bool ok = true;
    SET(CURLOPT_URL, url);
    SET(CURLOPT_UNIX_SOCKET_PATH, http->socket_path);
    SET(CURLOPT_PROXY, ""); /* http_proxy in the environment is not for this */
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
    SET(CURLOPT_BUFFERSIZE, TRANSFER_BYTES);
    SET(CURLOPT_HTTPHEADER, headers);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, (void *)x);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, (void *)x);
    ok = ok && set_body(easy, x);
    SET(CURLOPT_CUSTOMREQUEST, x->request->method);
    return ok;
}

static int waited_too_long(struct http *http, struct exchange *x, int64_t started_ms)
{
    const struct http_request *request = x->request;
    int64_t now = now_ms();
    if (request->deadline_ms && now - started_ms >= request->deadline_ms)
        return fail_set(x->why, ETIMEDOUT, "the engine at %s did not answer within %u s",
                        http->socket_path, request->deadline_ms / 1000);
    if (request->silence_ms && now - x->last_byte_ms >= request->silence_ms)
        return fail_set(x->why, ETIMEDOUT, "the engine at %s sent nothing for %u s",
                        http->socket_path, request->silence_ms / 1000);
    return 0;
}

/* Runs the transfer to its end, or to a cancel or time limit. */
static int drive(struct http *http, CURLM *multi, struct exchange *x)
{
    int64_t started_ms = x->last_byte_ms = now_ms();
    struct curl_waitfd extra = {.fd = cancel_fd(x->request->cancel), .events = CURL_WAIT_POLLIN};
    unsigned extras = extra.fd >= 0;
    for (;;) {
        int running = 0;
        if (curl_multi_perform(multi, &running) != CURLM_OK)
            return fail_set(x->why, EIO, "libcurl: the transfer could not be driven");
        if (!running)
            return 0;
        if (cancel_is_raised(x->request->cancel))
            return fail_set(x->why, EINTR, "interrupted");
        int r = waited_too_long(http, x, started_ms);
        if (r < 0)
            return r;
        if (curl_multi_poll(multi, &extra, extras, 250, NULL) != CURLM_OK)
            return fail_set(x->why, EIO, "libcurl: the transfer could not be waited for");
    }
}

static int connect_failure(struct http *http, struct exchange *x)
{
    long err = 0;
    (void)curl_easy_getinfo(x->easy, CURLINFO_OS_ERRNO, &err);
    if (err == EACCES || err == EPERM)
        return fail_set(x->why, EACCES,
                        "%s: permission denied (be root, or a member of the docker group)",
                        http->socket_path);
    if (err == ENOENT)
        return fail_set(x->why, EHOSTDOWN, "no engine: %s does not exist (is docker running?)",
                        http->socket_path);
    return fail_set(x->why, EHOSTDOWN, "no engine answers at %s (is docker running?)",
                    http->socket_path);
}

/* libcurl's verdict as ours; the status of a response that did come wins. */
static int translate(struct http *http, struct exchange *x, CURLcode code)
{
    if (x->collect_failed)
        return fail_set(x->why, -x->result, "the engine's answer is too large");
    if (x->result < 0)
        return x->result;
    switch (code) {
    case CURLE_OK:
        return 0;
    case CURLE_COULDNT_CONNECT:
        return connect_failure(http, x);
    case CURLE_OPERATION_TIMEDOUT:
        return fail_set(x->why, ETIMEDOUT, "the engine at %s did not take the connection",
                        http->socket_path);
    case CURLE_OUT_OF_MEMORY:
        return fail_errno(x->why, ENOMEM, "libcurl");
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
        /* A refusal may come, and the connection be closed, while we still send. */
        if (x->response.status >= 400)
            return 0;
        /* fall through */
    default:
        return fail_set(x->why, EIO, "the connection to the engine broke: %s",
                        curl_easy_strerror(code));
    }
}

static int run_exchange(struct http *http, struct pair *pair, struct exchange *x)
{
    if (curl_multi_add_handle(pair->multi, pair->easy) != CURLM_OK)
        return fail_errno(x->why, ENOMEM, "libcurl");
    int r = drive(http, pair->multi, x);
    CURLcode code = CURLE_OK;
    int left = 0;
    const CURLMsg *msg = curl_multi_info_read(pair->multi, &left);
    if (r == 0 && msg && msg->msg == CURLMSG_DONE)
        code = msg->data.result;
    long status = 0;
    (void)curl_easy_getinfo(pair->easy, CURLINFO_RESPONSE_CODE, &status);
    x->response.status = (int)status;
    (void)curl_multi_remove_handle(pair->multi, pair->easy);
    return r < 0 ? r : translate(http, x, code);
}

static struct curl_slist *make_headers(const struct http_request *request)
{
    /* "Expect: 100-continue" costs a second where the other side ignores it. */
    struct curl_slist *headers = curl_slist_append(NULL, "Expect:");
    if (!headers || !request->content_type)
        return headers;
    cleanup_free char *line = NULL;
    if (asprintf(&line, "Content-Type: %s", request->content_type) < 0) {
        line = NULL;
        curl_slist_free_all(headers);
        return NULL;
    }
    struct curl_slist *longer = curl_slist_append(headers, line);
    if (!longer)
        curl_slist_free_all(headers);
    return longer;
}

DEFINE_CLEANUP(cleanup_slist, struct curl_slist, curl_slist_free_all)

int http_exchange(struct http *http, const struct http_request *request,
                  struct http_response *ret_response, struct fail *why)
{
    struct curl_slist *headers cleanup(cleanup_slist) = make_headers(request);
    cleanup_free char *url = NULL;
    if (asprintf(&url, "http://localhost%s", request->path) < 0)
        url = NULL;
    struct pair *pair cleanup(cleanup_pair_impl) = pair_get(http);
    if (!headers || !url || !pair)
        return fail_errno(why, ENOMEM, "libcurl");
    struct exchange x = {.request = request, .why = why, .easy = pair->easy};
    buf_init(&x.response.body, HTTP_MAX_BODY_BYTES);
    int r = set_options(http, pair->easy, &x, url, headers) ? run_exchange(http, pair, &x)
                                                            : fail_errno(why, ENOMEM, "libcurl");
    if (r < 0) {
        http_response_done(&x.response);
        return r;
    }
    pair_put(http, take(pair));
    *ret_response = x.response;
    return 0;
}
