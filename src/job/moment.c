/* SPDX-License-Identifier: MIT */
/*
 * States of a moment, under the one lock of the table:
 *
 *   NEW      nobody has asked yet; no bytes
 *   MAKING   a worker makes the archive; `waiting` threads wait for it
 *   MADE     there is an archive; kept while open, or until expires_ms
 *   GONE     made and dropped, or failed (`result`); no bytes
 *
 * Live moments (not GONE) are in the table's list, newest first.  The nodes of
 * the front, the opens and the worker hold references; the table itself does
 * where it is MADE, so that who was told of it finds it although the kernel has
 * forgotten it meanwhile.
 */
#include "job/moment.h"

#include <string.h>

/* At least so long after it was made may those open it who asked before. */
#define PROMISE_MS 1000
/* How many processes that asked for the size, and have not opened, are remembered. */
#define MAX_ASKERS 512

enum state { NEW, MAKING, MADE, GONE };

struct asker {
    pid_t process;
    bool opened;
    unsigned lookups; /* of its threads, by which it has not been opened yet */
};

struct moment {
    unsigned refs; /* under the lock: the list gives out references */
    struct moments *table;
    struct moment *next;
    char *volume;
    enum now_format format;
    uint64_t serial;
    enum state state;
    int result; /* of GONE: -ESTALE, or why it could not be made */
    unsigned waiting;
    unsigned opens;
    struct cancel *cancel; /* of the making; NULL once it is MADE */
    int64_t begun_ms;
    int64_t expires_ms;          /* of MADE: who asked may open until then */
    struct now_archive *archive; /* of MADE */
    struct asker *askers;        /* NULL when GONE: the kernel may remember it for long */
    unsigned asker_count;
    unsigned asker_room;
};

struct moments {
    struct moments_conf conf;
    int64_t cache_ms;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a state, or stopping */
    struct moment *live;
    uint64_t next_serial;
    unsigned making;
    bool stopping;
    bool has_janitor;
    pthread_t janitor;
};

static int64_t now_ms(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* ---- life of one moment ------------------------------------------------- */

static void unlink_live(struct moment *moment)
{
    for (struct moment **at = &moment->table->live; *at; at = &(*at)->next) {
        if (*at == moment) {
            *at = moment->next;
            return;
        }
    }
}

static void free_now_archive(void *data)
{
    now_archive_free(data);
}

/* Elsewhere, because giving a large spool file back takes the disk a while. */
static void drop_archive(struct moment *moment)
{
    struct now_archive *archive = take(moment->archive);
    if (archive && workers_submit(moment->table->conf.workers, free_now_archive, archive) < 0)
        now_archive_free(archive);
}

static void forget_askers(struct moment *moment)
{
    free(take(moment->askers));
    moment->asker_count = moment->asker_room = 0;
}

/* With the lock, and a reference: it has no bytes any more and is found no more. */
static void make_gone(struct moment *moment, int result)
{
    if (moment->state == GONE)
        return;
    unlink_live(moment);
    if (moment->state == MADE)
        moment->refs--; /* the table's: not the last */
    moment->state = GONE;
    moment->result = result;
    drop_archive(moment);
    forget_askers(moment);
}

static struct moment *moment_new(struct moments *table, const char *volume, enum now_format format)
{
    struct moment *moment = calloc(1, sizeof(*moment));
    if (!moment)
        return NULL;
    moment->refs = 1;
    moment->table = table;
    moment->format = format;
    moment->serial = table->next_serial++;
    moment->cancel = cancel_new();
    moment->volume = strdup(volume);
    if (!moment->volume || !moment->cancel) {
        cancel_unref(moment->cancel);
        free(moment->volume);
        free(moment);
        return NULL;
    }
    moment->next = table->live;
    table->live = moment;
    return moment;
}

/* With the lock. */
static struct moment *ref(struct moment *moment)
{
    moment->refs++;
    return moment;
}

/* With the lock: drops a reference; true where moment_free must follow, unlocked. */
static bool unref_locked(struct moment *moment)
{
    if (--moment->refs)
        return false;
    make_gone(moment, -ESTALE);
    return true;
}

static void moment_free(struct moment *moment)
{
    cancel_unref(moment->cancel);
    free(moment->volume);
    free(moment);
}

void moment_unref(struct moment *moment)
{
    if (!moment)
        return;
    bool last;
    {
        scoped_lock(&moment->table->lock);
        last = unref_locked(moment);
    }
    if (last)
        moment_free(moment);
}

uint64_t moment_serial(const struct moment *moment)
{
    return moment->serial;
}

/* ---- who asked -------------------------------------------------------------- */

static struct asker *find_asker(struct moment *moment, pid_t process)
{
    for (unsigned i = 0; i < moment->asker_count; i++)
        if (moment->askers[i].process == process)
            return &moment->askers[i];
    return NULL;
}

/* A place for one more, or NULL: then it is not remembered, and may have to look
 * the name up again. */
static struct asker *add_asker(struct moment *moment)
{
    if (moment->asker_count == moment->asker_room) {
        unsigned room = moment->asker_room ? 2 * moment->asker_room : 4;
        struct asker *askers =
            room <= MAX_ASKERS ? realloc(moment->askers, room * sizeof(*askers)) : NULL;
        if (!askers)
            return NULL;
        moment->askers = askers;
        moment->asker_room = room;
    }
    return &moment->askers[moment->asker_count++];
}

/* NULL: it is gone, or there are too many. */
static struct asker *note_asker(struct moment *moment, pid_t process)
{
    if (moment->state == GONE)
        return NULL;
    struct asker *asker = find_asker(moment, process);
    if (!asker && (asker = add_asker(moment)))
        *asker = (struct asker){.process = process};
    return asker;
}

static void note_lookup(struct moment *moment, pid_t process)
{
    struct asker *asker = note_asker(moment, process);
    if (asker)
        asker->lookups++;
}

static void note_open(struct moment *moment, pid_t process)
{
    struct asker *asker = note_asker(moment, process);
    if (!asker)
        return;
    asker->opened = true;
    if (asker->lookups > 0)
        asker->lookups--;
}

static bool is_awaited(const struct moment *moment)
{
    for (unsigned i = 0; i < moment->asker_count; i++)
        if (!moment->askers[i].opened || moment->askers[i].lookups > 0)
            return true;
    return false;
}

/* With the lock: drops the bytes nobody may ask for any more. */
static void drop_unwanted(struct moment *moment)
{
    if (moment->state == MADE && !moment->opens && !moment->waiting &&
        (!is_awaited(moment) || now_ms() >= moment->expires_ms))
        make_gone(moment, -ESTALE);
}

/* Whether the process was told of it, and has yet to open it. */
static bool was_told_to(struct moment *moment, pid_t process)
{
    const struct asker *asker = find_asker(moment, process);
    return asker && !asker->opened && (moment->state != MADE || now_ms() < moment->expires_ms);
}

static bool is_about_now(const struct moment *moment)
{
    return moment->state == NEW ||
           (moment->state == MAKING && now_ms() <= moment->begun_ms + moment->table->cache_ms);
}

struct moment *moment_find(struct moments *moments, const char *volume, enum now_format format,
                           pid_t process)
{
    scoped_lock(&moments->lock);
    struct moment *found = NULL;
    for (struct moment *at = moments->live; at; at = at->next) {
        if (at->format != format || strcmp(at->volume, volume) != 0)
            continue;
        if (was_told_to(at, process)) { /* goes before what is newer */
            found = at;
            break;
        }
        if (!found && is_about_now(at))
            found = at;
    }
    if (found)
        (void)ref(found);
    else
        found = moment_new(moments, volume, format);
    /* Whoever looks a name up asks or opens next, and must find it still there. */
    if (found)
        note_lookup(found, process);
    return found;
}

/* ---- the making --------------------------------------------------------------- */

/* With the lock: what became of the making.  Takes the archive. */
static void note_made(struct moment *moment, int r, struct now_archive **archive)
{
    if (moment->state != MAKING) /* given up meanwhile */
        return;
    if (r < 0) {
        make_gone(moment, r);
        return;
    }
    moment->archive = take(*archive);
    cancel_unref(take(moment->cancel)); /* it is a descriptor */
    moment->state = MADE;
    (void)ref(moment);
    int64_t cache_ms = moment->table->cache_ms;
    moment->expires_ms = now_ms() + (cache_ms > PROMISE_MS ? cache_ms : PROMISE_MS);
    drop_unwanted(moment);
}

/* Runs in a worker, with a reference. */
static void make(void *data)
{
    struct moment *moment = data;
    struct moments *table = moment->table;
    struct fail why = FAIL_INIT;
    struct now_archive *archive cleanup_now_archive = NULL;
    const char *name = now_format_name(moment->format);
    struct now_archive_conf conf = {.volumes = table->conf.volumes,
                                    .spool = table->conf.spool,
                                    .log = table->conf.log,
                                    .jobs = table->conf.jobs,
                                    .volume = moment->volume,
                                    .name = name,
                                    .format = moment->format,
                                    .level = table->conf.level};
    int r = now_archive_make(&conf, moment->cancel, &archive, &why);
    if (r < 0 && r != -EINTR)
        log_event(table->conf.log, "%s/snapshots/%s: %s", moment->volume, name, fail_text(&why, r));
    bool last;
    {
        /* Everything that needs the table is done before it may be freed: see
         * cancel_all. */
        scoped_lock(&table->lock);
        note_made(moment, r, &archive);
        last = unref_locked(moment);
        table->making--;
        (void)pthread_cond_broadcast(&table->changed);
    }
    if (last)
        moment_free(moment);
}

/* With the lock. */
static int begin_making(struct moment *moment)
{
    struct moments *table = moment->table;
    if (table->stopping)
        return -EINTR;
    int r = workers_submit(table->conf.workers, make, ref(moment));
    if (r < 0) {
        moment->refs--; /* never the last: the caller has one */
        return r;
    }
    moment->state = MAKING;
    moment->begun_ms = now_ms();
    table->making++;
    return 0;
}

static void wake_waiting(void *data)
{
    struct moments *table = data;
    scoped_lock(&table->lock);
    (void)pthread_cond_broadcast(&table->changed);
}

/* With the lock: until it is MADE or GONE, or cancel. */
static int wait_made(struct moment *moment, struct cancel *cancel)
{
    moment->waiting++;
    int r = moment->state == NEW ? begin_making(moment) : 0;
    while (r == 0 && moment->state == MAKING) {
        if (cancel_is_raised(cancel))
            r = -EINTR;
        else
            (void)pthread_cond_wait(&moment->table->changed, &moment->table->lock);
    }
    moment->waiting--;
    if (r < 0)
        return r;
    return moment->state == GONE ? moment->result : 0;
}

/* Whether, now that one more gave up, the making should be given up too; it is
 * then no longer found by others. */
static bool is_abandoned(struct moment *moment)
{
    if (moment->state != MAKING || moment->waiting)
        return false;
    /* Whoever asks for it now looks the name up anew. */
    make_gone(moment, -ESTALE);
    return true;
}

static int ask(struct moment *moment, pid_t process, bool opens, struct cancel *cancel,
               struct now_archive_info *ret_info)
{
    struct moments *table = moment->table;
    struct cancel_hook hook = {.run = wake_waiting, .data = table};
    cancel_hook_add(cancel, &hook);
    int r;
    struct cancel *making cleanup_cancel = NULL;
    {
        scoped_lock(&table->lock);
        if (opens)
            note_open(moment, process);
        else
            (void)note_asker(moment, process);
        r = wait_made(moment, cancel);
        if (r == 0 && opens)
            moment->opens++;
        if (r == 0 && ret_info)
            *ret_info = now_archive_info(moment->archive);
        if (r == -EINTR && is_abandoned(moment))
            making = cancel_ref(moment->cancel);
    }
    cancel_hook_remove(cancel, &hook);
    if (making)
        cancel_raise(making);
    return r;
}

int moment_stat(struct moment *moment, pid_t process, struct cancel *cancel,
                struct now_archive_info *ret_info)
{
    return ask(moment, process, false, cancel, ret_info);
}

int moment_open(struct moment *moment, pid_t process, struct cancel *cancel)
{
    return ask(moment, process, true, cancel, NULL);
}

bool moment_peek(struct moment *moment, struct now_archive_info *ret_info)
{
    scoped_lock(&moment->table->lock);
    if (moment->state != MADE)
        return false;
    *ret_info = now_archive_info(moment->archive);
    return true;
}

uint64_t moment_affected(struct moment *moment)
{
    scoped_lock(&moment->table->lock);
    return moment->state == MADE ? now_archive_affected(moment->archive) : 0;
}

void moment_close(struct moment *moment)
{
    scoped_lock(&moment->table->lock);
    moment->opens--;
    drop_unwanted(moment);
    (void)pthread_cond_broadcast(&moment->table->changed); /* the janitor drops it later */
}

ssize_t moment_read(struct moment *moment, void *data, size_t len, uint64_t offset,
                    struct cancel *cancel)
{
    struct fail why = FAIL_INIT;
    /* The archive does not go while it is open. */
    ssize_t n = now_archive_read(moment->archive, data, len, offset, cancel, &why);
    if (n < 0 && n != -EINTR)
        log_event(moment->table->conf.log, "%s/snapshots/%s: at %llu: %s", moment->volume,
                  now_format_name(moment->format), (unsigned long long)offset,
                  fail_text(&why, (int)n));
    return n;
}

/* ---- the table -------------------------------------------------------------------- */

/* With the lock: drops what has expired, and says when the next will. */
static int64_t drop_expired(struct moments *table)
{
    int64_t next_ms = -1;
    struct moment *next;
    for (struct moment *at = table->live; at; at = next) {
        next = at->next;
        (void)ref(at);
        drop_unwanted(at);
        if (at->state == MADE && !at->opens && (next_ms < 0 || at->expires_ms < next_ms))
            next_ms = at->expires_ms;
        if (unref_locked(at))
            moment_free(at);
    }
    return next_ms;
}

static void *janitor_main(void *arg)
{
    struct moments *table = arg;
    scoped_lock(&table->lock);
    while (!table->stopping) {
        int64_t next_ms = drop_expired(table);
        if (next_ms < 0) {
            (void)pthread_cond_wait(&table->changed, &table->lock);
        } else {
            next_ms++; /* not a moment too early */
            struct timespec until = {.tv_sec = next_ms / 1000, .tv_nsec = next_ms % 1000 * 1000000};
            (void)pthread_cond_timedwait(&table->changed, &table->lock, &until);
        }
    }
    return NULL;
}

int moments_start(const struct moments_conf *conf, struct moments **ret_moments, struct fail *why)
{
    struct moments *table = calloc(1, sizeof(*table));
    if (!table)
        return fail_errno(why, ENOMEM, "moments");
    table->conf = *conf;
    table->cache_ms = (int64_t)(conf->cache_seconds * 1000);
    table->next_serial = 1;
    (void)pthread_mutex_init(&table->lock, NULL);
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&table->changed, &attr);
    (void)pthread_condattr_destroy(&attr);
    int err = pthread_create(&table->janitor, NULL, janitor_main, table);
    if (err) {
        moments_stop(table);
        return fail_errno(why, err, "starting a thread");
    }
    table->has_janitor = true;
    *ret_moments = table;
    return 0;
}

static void cancel_all(struct moments *table)
{
    scoped_lock(&table->lock);
    table->stopping = true;
    /* Raising only wakes the engine's transfers: no hook of these cancels takes our lock. */
    for (struct moment *at = table->live; at; at = at->next)
        if (at->cancel)
            cancel_raise(at->cancel);
    (void)pthread_cond_broadcast(&table->changed);
    while (table->making)
        (void)pthread_cond_wait(&table->changed, &table->lock);
}

static void drop_all(struct moments *table)
{
    scoped_lock(&table->lock);
    while (table->live) {
        struct moment *moment = ref(table->live);
        make_gone(moment, -ESTALE);
        if (unref_locked(moment))
            moment_free(moment);
    }
}

void moments_stop(struct moments *moments)
{
    if (!moments)
        return;
    cancel_all(moments);
    if (moments->has_janitor)
        (void)pthread_join(moments->janitor, NULL);
    drop_all(moments);
    (void)pthread_cond_destroy(&moments->changed);
    (void)pthread_mutex_destroy(&moments->lock);
    free(moments);
}
