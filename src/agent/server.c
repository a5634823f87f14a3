/* SPDX-License-Identifier: MIT */
/*
 * One thread, the caller's, reads and takes requests apart; some work on them;
 * each adds its replies to the output (agent/output.h).
 *
 * What a handle's number means is decided by the reader, in the order in which
 * requests come: a request that was sent before the handle's CLOSE still works on it,
 * whenever its turn comes.
 *
 * All but STAT may take long (a slow disk, a long listing, a lease to be broken).
 * One thread is never given such work, so that a STAT never waits for it.
 *
 * Locks: the queue's, the handles' and the output's are never held together.
 */
#include "agent/server.h"

#include "agent/answer.h"

#include <poll.h>
#include <string.h>
#include <time.h>

/* Files that one thread opens in a run: waking one for each would cost as much as most of
 * them do. */
#define MAX_RUN 16
/* After so long the rest of a run is for any thread again. */
#define RUN_MS 10

/* Room on the stack for a path or two and some of a directory's names; a sanitizer build
 * needs several times what a plain one does.  What is not touched costs nothing. */
#define STACK_BYTES ((size_t)256 * 1024)
#define MAX_THREADS 64
#define READ_BYTES ((size_t)32 * 1024)

struct work {
    struct work *next; /* in the queue; then in the same run */
    struct agent_request request;
    struct handle *handle; /* held; NULL: none */
    int refused;           /* a negative errno instead of working on it; else 0 */
    char path[];
};

struct server {
    const struct agent_server *conf;
    struct handles handles;
    struct answers answers;
    struct cancel *broken;
    struct output output;

    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t added; /* work, or the end */
    pthread_cond_t taken; /* work, so that there is room */
    struct work *first;
    struct work **last;
    size_t queued;
    unsigned busy_long; /* threads that may take long */
    unsigned max_long;
    bool ended; /* nothing more will come */
};

/* ---- working ------------------------------------------------------------------- */

static bool is_long(const struct work *work)
{
    return work->request.type != AGENT_STAT && work->request.type != AGENT_CLOSE;
}

static bool is_one_of_many(const struct work *work)
{
    return work->request.type == AGENT_OPEN && work->request.flags & AGENT_ONE_OF_MANY;
}

/* How many in a row, from this one on, are to be done by one thread: what there is, shared
 * among all. */
static size_t run_length(const struct server *server, const struct work *work)
{
    size_t share = server->queued / server->max_long, n = 1;
    while (n < share && n < MAX_RUN && is_one_of_many(work) && work->next &&
           is_one_of_many(work->next)) {
        work = work->next;
        n++;
    }
    return n;
}

/* The oldest that may be worked on now, and those that go with it; NULL: there is none. */
static struct work *take_run(struct server *server)
{
    struct work **at = &server->first;
    while (*at && is_long(*at) && server->busy_long >= server->max_long)
        at = &(*at)->next;
    struct work *work = *at, *last = work;
    if (!work)
        return NULL;
    size_t n = run_length(server, work);
    for (size_t i = 1; i < n; i++)
        last = last->next;
    *at = last->next;
    if (!last->next)
        server->last = at;
    last->next = NULL;
    server->queued -= n;
    server->busy_long += is_long(work);
    (void)pthread_cond_signal(&server->taken);
    if (server->first)
        (void)pthread_cond_signal(&server->added);
    else if (server->ended)
        (void)pthread_cond_broadcast(&server->added);
    return work;
}

/* The next run, or NULL when there will be none. */
static struct work *wait_for_work(struct server *server)
{
    scoped_lock(&server->lock);
    struct work *work;
    while (!(work = take_run(server)) && !(server->ended && !server->first))
        (void)pthread_cond_wait(&server->added, &server->lock);
    return work;
}

/* All behind it as well. */
static void free_work(struct server *server, struct work *work)
{
    while (work) {
        struct work *next = work->next;
        handles_drop(&server->handles, work->handle);
        free(work);
        work = next;
    }
}

/* What became free to be worked on, this thread itself looks for next. */
static void end_run(struct server *server, struct work *run)
{
    bool was_long = is_long(run);
    free_work(server, run);
    scoped_lock(&server->lock);
    server->busy_long -= was_long;
}

static int64_t now_ms(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void do_work(struct server *server, struct work *work)
{
    const struct agent_request *request = &work->request;
    if (request->type == AGENT_CLOSE)
        return;
    struct reply *reply = reply_new(request->id, request->type);
    if (!reply) {
        output_fail(&server->output, -ENOMEM);
        return;
    }
    if (work->refused)
        reply->result = work->refused;
    else
        answer(&server->answers, request, work->handle, reply);
    /* Before the reply, on which the next request may follow. */
    if (request->type == AGENT_NEXT && work->handle)
        handles_unclaim(&server->handles, work->handle);
    output_add(&server->output, reply);
}

static void give_back(struct server *server, struct work *run)
{
    struct work *last = run;
    size_t n = 1;
    for (; last->next; last = last->next)
        n++;
    scoped_lock(&server->lock);
    last->next = server->first;
    if (!server->first)
        server->last = &last->next;
    server->first = run;
    server->queued += n;
    (void)pthread_cond_signal(&server->added);
}

static void do_run(struct server *server, struct work *run)
{
    int64_t until_ms = now_ms() + RUN_MS;
    do_work(server, run);
    while (run->next && now_ms() < until_ms) {
        run = run->next;
        do_work(server, run);
    }
    if (run->next)
        give_back(server, take(run->next));
}

static void *worker_main(void *arg)
{
    struct server *server = arg;
    struct work *run;
    while ((run = wait_for_work(server))) {
        do_run(server, run);
        end_run(server, run);
    }
    return NULL;
}

/* ---- reading ------------------------------------------------------------------- */

static void queue_work(struct server *server, struct work *work)
{
    scoped_lock(&server->lock);
    while (server->queued >= AGENT_MAX_QUEUE)
        (void)pthread_cond_wait(&server->taken, &server->lock);
    *server->last = work;
    server->last = &work->next;
    server->queued++;
    (void)pthread_cond_signal(&server->added);
}

/* Finds the handle that a request names. */
static void resolve_handle(struct server *server, struct work *work)
{
    uint16_t type = work->request.type;
    if (type != AGENT_NEXT && type != AGENT_READ && type != AGENT_SEEK && type != AGENT_CLOSE)
        return;
    work->handle = handles_hold(&server->handles, work->request.handle);
    if (work->handle && type == AGENT_CLOSE)
        handles_close(&server->handles, work->handle);
    if (work->handle && type == AGENT_NEXT) {
        work->refused = handles_claim(&server->handles, work->handle);
        if (work->refused)
            handles_drop(&server->handles, take(work->handle));
    }
}

static int take_request(struct server *server, const struct agent_request *request)
{
    size_t path_bytes = strlen(request->path) + 1;
    struct work *work = calloc(1, sizeof(*work) + path_bytes);
    if (!work)
        return -ENOMEM;
    work->request = *request;
    memcpy(work->path, request->path, path_bytes);
    work->request.path = work->path;
    resolve_handle(server, work);
    queue_work(server, work);
    return 0;
}

/* Takes all requests that are complete. */
static int take_requests(struct server *server, struct buf *in)
{
    size_t position = 0;
    struct agent_frame frame;
    int r;
    while ((r = agent_frame_read(buf_string(in), in->len, &position, AGENT_MAX_REQUEST_BYTES,
                                 &frame)) > 0) {
        struct agent_request request;
        r = agent_request_read(&frame, &request);
        if (r == 0)
            r = take_request(server, &request);
        if (r < 0)
            return r;
    }
    buf_drop_front(in, position);
    return r;
}

/* Waits for more to read: 0, or a failure, the output's among them. */
static int wait_for_input(struct server *server)
{
    /* Of `out` an error alone: a pipe whose reader is gone. */
    struct pollfd fds[] = {{.fd = server->conf->in, .events = POLLIN},
                           {.fd = cancel_fd(server->broken), .events = POLLIN},
                           {.fd = server->conf->out}};
    while (poll(fds, 3, -1) < 0)
        if (errno != EINTR)
            return -errno;
    if (fds[1].revents)
        return output_error(&server->output);
    return fds[2].revents & POLLERR && !fds[0].revents ? -EPIPE : 0;
}

/* Until the input ends: 0. */
static int read_requests(struct server *server)
{
    struct buf in cleanup_buf;
    buf_init(&in, AGENT_FRAME_HEAD_BYTES + AGENT_MAX_REQUEST_BYTES + READ_BYTES);
    for (;;) {
        char chunk[READ_BYTES];
        int r = wait_for_input(server);
        if (r < 0)
            return r;
        ssize_t n = read(server->conf->in, chunk, sizeof(chunk));
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return in.len ? -EBADMSG : 0;
        r = buf_add(&in, chunk, (size_t)n);
        if (r == 0)
            r = take_requests(server, &in);
        if (r < 0)
            return r;
    }
}

/* ---- beginning and end --------------------------------------------------------- */

static int say_hello(struct server *server)
{
    struct reply *reply cleanup_reply = reply_new(0, AGENT_HELLO);
    if (!reply)
        return -ENOMEM;
    reply->result = AGENT_VERSION;
    int r = buf_add_string(&reply->payload, server->conf->nonce);
    if (r < 0)
        return r;
    output_add(&server->output, take(reply));
    return output_error(&server->output);
}

/* Starts up to `count` threads: how many. */
static unsigned start_threads(struct server *server, pthread_t *threads, unsigned count)
{
    pthread_attr_t attr;
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setstacksize(&attr, STACK_BYTES);
    unsigned started = 0;
    while (started < count && pthread_create(&threads[started], &attr, worker_main, server) == 0)
        started++;
    (void)pthread_attr_destroy(&attr);
    return started;
}

/* Nothing more will come.  What is queued is worked on, or given back. */
static struct work *end_queue(struct server *server, bool drop)
{
    scoped_lock(&server->lock);
    struct work *dropped = drop ? take(server->first) : NULL;
    server->ended = true;
    (void)pthread_cond_broadcast(&server->added);
    return dropped;
}

static int run(struct server *server)
{
    pthread_t threads[MAX_THREADS];
    unsigned wanted = server->conf->threads;
    /* A thread fewer may take what is long; so nothing is taken before it is known. */
    (void)pthread_mutex_lock(&server->lock);
    unsigned count = start_threads(server, threads, wanted < MAX_THREADS ? wanted : MAX_THREADS);
    server->max_long = count > 1 ? count - 1 : 1;
    (void)pthread_mutex_unlock(&server->lock);
    int r = count ? read_requests(server) : -EAGAIN;
    struct work *dropped = end_queue(server, r < 0);
    free_work(server, dropped);
    while (count)
        (void)pthread_join(threads[--count], NULL);
    return r;
}

int agent_serve(const struct agent_server *conf)
{
    struct server server = {.conf = conf};
    server.broken = cancel_new();
    if (!server.broken)
        return -errno;
    handles_init(&server.handles);
    output_init(&server.output, conf->out, conf->is_socket, server.broken);
    server.answers = (struct answers){
        .root = conf->root, .hands_descriptors = conf->is_socket, .handles = &server.handles};
    (void)pthread_mutex_init(&server.lock, NULL);
    (void)pthread_cond_init(&server.added, NULL);
    (void)pthread_cond_init(&server.taken, NULL);
    server.last = &server.first;
    int r = say_hello(&server);
    if (r == 0)
        r = run(&server);
    if (r == 0)
        r = output_error(&server.output);
    (void)pthread_cond_destroy(&server.added);
    (void)pthread_cond_destroy(&server.taken);
    (void)pthread_mutex_destroy(&server.lock);
    output_done(&server.output);
    handles_done(&server.handles);
    cancel_unref(server.broken);
    return r;
}
