/* SPDX-License-Identifier: MIT */
#include "fs/loop.h"

#include "base/cleanup.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

/* Those that answer at once, or wait for this machine's disk; what waits for the
 * engine has threads of its own. */
#define MAX_THREADS 64
/* Longer than what `tar` does between two requests; a CPU sleeps and wakes as long. */
#define SPIN_NS 100000
/* How often the watch looks, and for how long when there is nothing to see. */
#define WATCH_MS 1
#define WATCH_QUIET 100

struct loop {
    struct fuse_session *session;
    int fd;       /* the session's */
    int ended_fd; /* readable: the end */
    int watch_fd; /* readable: there is something to watch, or the end */
    bool may_spin;

    pthread_mutex_t lock;
    pthread_cond_t changed; /* the lead is free, or the end */
    bool ended;
    bool lead_is_free;
    unsigned term;       /* how often the lead changed hands: who leads knows the number */
    bool leader_is_busy; /* with a request, */
    uint64_t requests;   /* of that number */
    bool is_watched;
    pthread_t threads[MAX_THREADS];
    unsigned started, waiting;

    bool spins; /* the leader's own: requests come one upon the other */
};

/* Of the handler of signals. */
static volatile sig_atomic_t signalled, signal_fd;

static int64_t now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void make_readable(int fd)
{
    (void)eventfd_write(fd, 1);
}

static void end(struct loop *loop)
{
    scoped_lock(&loop->lock);
    loop->ended = true;
    fuse_session_exit(loop->session);
    make_readable(loop->ended_fd);
    make_readable(loop->watch_fd);
    (void)pthread_cond_broadcast(&loop->changed);
}

/* ---- the lead ---------------------------------------------------------------------- */

static void *serve(void *data);

/* With the lock.  Where nobody waits for the lead and nobody can be found, the
 * first that is done takes it. */
static void free_lead(struct loop *loop)
{
    loop->term++;
    loop->lead_is_free = true;
    loop->leader_is_busy = false;
    if (loop->waiting)
        (void)pthread_cond_signal(&loop->changed);
    else if (loop->started < MAX_THREADS &&
             pthread_create(&loop->threads[loop->started], NULL, serve, loop) == 0)
        loop->started++;
}

/* Waits for it.  False: the end. */
static bool take_lead(struct loop *loop, unsigned *ret_term)
{
    scoped_lock(&loop->lock);
    loop->waiting++;
    while (!loop->ended && !loop->lead_is_free)
        (void)pthread_cond_wait(&loop->changed, &loop->lock);
    loop->waiting--;
    loop->lead_is_free = false;
    *ret_term = loop->term;
    return !loop->ended;
}

/* Whether the lead is kept during the request that was taken. */
static void begin_request(struct loop *loop, bool hand_over)
{
    scoped_lock(&loop->lock);
    loop->requests++;
    loop->leader_is_busy = true;
    if (hand_over)
        free_lead(loop);
    if (!loop->is_watched)
        make_readable(loop->watch_fd);
    loop->is_watched = true;
}

/* Whether the lead was kept. */
static bool end_request(struct loop *loop, unsigned term)
{
    scoped_lock(&loop->lock);
    if (loop->term != term)
        return false;
    loop->leader_is_busy = false;
    return !loop->ended;
}

/* ---- requests ------------------------------------------------------------------------ */

static bool is_readable(int fd)
{
    struct pollfd look = {.fd = fd, .events = POLLIN};
    return poll(&look, 1, 0) > 0;
}

/* What is done in no time, and nobody waits for: after most of them the next request is
 * there already, as `tar` closes one file and opens another, and to wake a thread for that
 * would cost more than they do.  One that does take long is the watch's. */
static bool is_brief(const struct fuse_buf *buf)
{
    const struct fuse_in_header *head = buf->mem;
    if (buf->flags & FUSE_BUF_IS_FD || buf->size < sizeof(*head))
        return false;
    return head->opcode == FUSE_RELEASE || head->opcode == FUSE_RELEASEDIR ||
           head->opcode == FUSE_FORGET; /* thousands, in a FUSE_BATCH_FORGET, are not */
}

static void sleep_until_readable(struct loop *loop)
{
    struct pollfd look[] = {{.fd = loop->fd, .events = POLLIN},
                            {.fd = loop->ended_fd, .events = POLLIN}};
    (void)poll(look, 2, -1);
}

/* As fuse_session_receive_buf: 0 or less at the end.  The session does not block. */
static int next_request(struct loop *loop, struct fuse_buf *buf)
{
    int64_t since = now_ns();
    int n;
    while ((n = fuse_session_receive_buf(loop->session, buf)) == -EAGAIN || n == -EINTR) {
        if (fuse_session_exited(loop->session))
            return 0;
        if (loop->spins && now_ns() - since < SPIN_NS)
            (void)sched_yield(); /* who asks may need this CPU */
        else
            sleep_until_readable(loop);
    }
    loop->spins = loop->may_spin && now_ns() - since < SPIN_NS;
    return n;
}

static void *serve(void *data)
{
    struct loop *loop = data;
    struct fuse_buf buf = {0};
    unsigned term;
    while (take_lead(loop, &term)) {
        do {
            if (next_request(loop, &buf) <= 0) {
                end(loop);
                break;
            }
            begin_request(loop, !is_brief(&buf) && is_readable(loop->fd));
            fuse_session_process_buf(loop->session, &buf);
        } while (end_request(loop, term));
    }
    free(buf.mem);
    return NULL;
}

/* ---- the watch ------------------------------------------------------------------------- */

/* What the watch has seen. */
struct sight {
    uint64_t requests;
    unsigned quiet; /* how often nothing new */
};

/* Whether to look again soon. */
static bool look(struct loop *loop, struct sight *sight)
{
    scoped_lock(&loop->lock);
    bool is_new = loop->requests != sight->requests;
    if (loop->leader_is_busy && !is_new)
        free_lead(loop);
    sight->quiet = is_new ? 0 : sight->quiet + 1;
    sight->requests = loop->requests;
    loop->is_watched = sight->quiet < WATCH_QUIET;
    return loop->is_watched;
}

static void watch(struct loop *loop)
{
    struct pollfd wake = {.fd = loop->watch_fd, .events = POLLIN};
    struct sight sight = {0};
    bool watches = true;
    eventfd_t count;
    while (!signalled && !fuse_session_exited(loop->session)) {
        if (poll(&wake, 1, watches ? WATCH_MS : -1) > 0)
            (void)eventfd_read(loop->watch_fd, &count);
        watches = look(loop, &sight);
    }
}

/* ---- signals ----------------------------------------------------------------------------- */

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
enum { SIGNALS = sizeof(signals) / sizeof(*signals) };

/* In whichever thread the kernel takes for it. */
static void on_signal(int number)
{
    (void)number;
    int saved = errno;
    signalled = 1;
    make_readable(signal_fd);
    errno = saved;
}

static void catch_signals(struct loop *loop, struct sigaction before[SIGNALS])
{
    const struct sigaction catch = {.sa_handler = on_signal};
    signal_fd = loop->watch_fd;
    signalled = 0;
    for (int i = 0; i < SIGNALS; i++)
        if (sigaction(signals[i], NULL, &before[i]) == 0 && before[i].sa_handler != SIG_IGN)
            (void)sigaction(signals[i], &catch, NULL);
}

static void release_signals(const struct sigaction before[SIGNALS])
{
    for (int i = 0; i < SIGNALS; i++)
        (void)sigaction(signals[i], &before[i], NULL);
}

/* ---- all of it ------------------------------------------------------------------------- */

static bool has_several_cpus(void)
{
    cpu_set_t cpus;
    return sched_getaffinity(0, sizeof(cpus), &cpus) == 0 && CPU_COUNT(&cpus) > 1;
}

static bool open_fds(struct loop *loop)
{
    int flags = fcntl(loop->fd, F_GETFL);
    loop->ended_fd = eventfd(0, EFD_CLOEXEC);
    loop->watch_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return flags >= 0 && fcntl(loop->fd, F_SETFL, flags | O_NONBLOCK) == 0 && loop->ended_fd >= 0 &&
           loop->watch_fd >= 0;
}

static void serve_and_watch(struct loop *loop)
{
    struct sigaction before[SIGNALS];
    catch_signals(loop, before);
    {
        scoped_lock(&loop->lock);
        free_lead(loop);
    }
    if (loop->started)
        watch(loop);
    end(loop);
    for (unsigned i = 0; i < loop->started; i++)
        (void)pthread_join(loop->threads[i], NULL);
    release_signals(before);
}

void loop_run(struct fuse_session *session)
{
    struct loop loop = {.session = session,
                        .fd = fuse_session_fd(session),
                        .lock = PTHREAD_MUTEX_INITIALIZER,
                        .changed = PTHREAD_COND_INITIALIZER,
                        .may_spin = has_several_cpus()};
    if (open_fds(&loop))
        serve_and_watch(&loop);
    cleanup_close_impl(&loop.ended_fd);
    cleanup_close_impl(&loop.watch_fd);
    (void)pthread_cond_destroy(&loop.changed);
    (void)pthread_mutex_destroy(&loop.lock);
}
