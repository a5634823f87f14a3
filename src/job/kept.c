/* SPDX-License-Identifier: MIT */
#include "job/kept.h"

#include "job/import.h"
#include "job/now_archive.h"
#include "job/reindex.h"
#include "job/take.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

/* Snapshots that stay open for the next who looks into them: two descriptors each, and 20
 * bytes for each frame. */
#define OPENED_MAX 32
#define CACHE_MAX_BYTES ((size_t)64 << 20)

/* A snapshot that is open, or is being opened: then others wait. */
struct opened {
    struct opened *next;
    struct snapshot *snapshot; /* NULL: being opened */
    dev_t dev;
    ino_t ino;
    struct timespec mtime;
    char *volume;
    char *name;
};

struct kept {
    struct kept_conf conf;
    struct store *store;
    struct snapshot_cache *cache;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    struct opened *opened; /* used last first */
};

int kept_start(const struct kept_conf *conf, struct kept **ret_kept, struct fail *why)
{
    struct kept *kept = calloc(1, sizeof(*kept));
    if (!kept)
        return fail_errno(why, ENOMEM, "%s", conf->store);
    kept->conf = *conf;
    (void)pthread_mutex_init(&kept->lock, NULL);
    (void)pthread_cond_init(&kept->changed, NULL);
    kept->cache = snapshot_cache_new(CACHE_MAX_BYTES);
    int r = kept->cache ? store_open(conf->store, &kept->store, why)
                        : fail_errno(why, ENOMEM, "%s", conf->store);
    if (r < 0) {
        kept_stop(kept);
        return r;
    }
    *ret_kept = kept;
    return 0;
}

struct store *kept_store(struct kept *kept)
{
    return kept->store;
}

/* ---- snapshots that are open ------------------------------------------------------------ */

static void opened_free(struct opened *opened)
{
    if (!opened)
        return;
    snapshot_unref(opened->snapshot);
    free(opened->volume);
    free(opened->name);
    free(opened);
}

static void free_all(struct opened *opened)
{
    while (opened) {
        struct opened *next = opened->next;
        opened_free(opened);
        opened = next;
    }
}

static struct opened *opened_new(const char *volume, const char *name, const struct stat *st)
{
    struct opened *opened = calloc(1, sizeof(*opened));
    if (!opened)
        return NULL;
    opened->dev = st->st_dev;
    opened->ino = st->st_ino;
    opened->mtime = st->st_mtim;
    opened->volume = strdup(volume);
    opened->name = strdup(name);
    if (opened->volume && opened->name)
        return opened;
    opened_free(opened);
    return NULL;
}

static bool is_of(const struct opened *opened, const char *volume, const char *name)
{
    return strcmp(opened->volume, volume) == 0 && strcmp(opened->name, name) == 0;
}

static bool is_same_file(const struct opened *opened, const struct stat *st)
{
    return opened->dev == st->st_dev && opened->ino == st->st_ino &&
           opened->mtime.tv_sec == st->st_mtim.tv_sec &&
           opened->mtime.tv_nsec == st->st_mtim.tv_nsec;
}

/* With the lock. */
static void put_first(struct kept *kept, struct opened *opened)
{
    opened->next = kept->opened;
    kept->opened = opened;
}

/* With the lock: takes it out of the list, if it is there. */
static void take_out(struct kept *kept, const struct opened *opened)
{
    for (struct opened **at = &kept->opened; *at; at = &(*at)->next) {
        if (*at == opened) {
            *at = opened->next;
            return;
        }
    }
}

/* With the lock: the one of that name and file, now the first in the list; NULL. */
static struct opened *find(struct kept *kept, const char *volume, const char *name,
                           const struct stat *st)
{
    for (struct opened *at = kept->opened; at; at = at->next) {
        if (is_of(at, volume, name) && is_same_file(at, st)) {
            take_out(kept, at);
            put_first(kept, at);
            return at;
        }
    }
    return NULL;
}

/* Forgets all of that name that are open: others may use the room they take on the disk. */
static void forget(struct kept *kept, const char *volume, const char *name)
{
    struct opened *gone = NULL;
    {
        scoped_lock(&kept->lock);
        for (struct opened **at = &kept->opened; *at;) {
            struct opened *opened = *at;
            if (!opened->snapshot || !is_of(opened, volume, name)) {
                at = &opened->next;
                continue;
            }
            *at = opened->next;
            opened->next = gone;
            gone = opened;
        }
    }
    free_all(gone);
}

/* With the lock: those that nobody used for longest; they are free_all'ed without it. */
static struct opened *take_surplus(struct kept *kept)
{
    struct opened *gone = NULL;
    unsigned count = 0;
    for (struct opened **at = &kept->opened; *at;) {
        struct opened *opened = *at;
        if (!opened->snapshot || ++count <= OPENED_MAX) {
            at = &opened->next;
            continue;
        }
        *at = opened->next;
        opened->next = gone;
        gone = opened;
    }
    return gone;
}

static int open_indexed(struct kept *kept, const char *volume, const char *name, int fd,
                        struct snapshot **ret_snapshot, struct fail *why)
{
    cleanup_free char *path = store_index_path(kept->store, volume, name);
    if (!path)
        return fail_errno(why, ENOMEM, "snapshot %s", name);
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0)
        return fail_errno(why, errno, "snapshot %s", name);
    return snapshot_open(own, path, kept->cache, ret_snapshot, why);
}

static int open_or_index(struct kept *kept, const char *volume, const char *name, int fd,
                         struct cancel *cancel, struct snapshot **ret_snapshot, struct fail *why)
{
    int r = open_indexed(kept, volume, name, fd, ret_snapshot, why);
    if (r != -ENODATA && r != -EBADMSG)
        return r;
    struct job job cleanup_job;
    job_begin(&job, kept->conf.jobs, "index", volume, name);
    r = reindex_run(kept->store, volume, name, fd, &job, cancel, why);
    if (r == 0)
        r = open_indexed(kept, volume, name, fd, ret_snapshot, why);
    return r < 0 ? fail_prefix(why, r == -ENODATA ? -EIO : r, "snapshot %s", name) : 0;
}

static void wake(void *data)
{
    struct kept *kept = data;
    scoped_lock(&kept->lock);
    (void)pthread_cond_broadcast(&kept->changed);
}

/* With the lock: 1 and a reference to the one that is open; 0: `own` is in the list now, for
 * the caller to be opened; -EINTR. */
static int find_or_claim(struct kept *kept, struct opened *own, const struct stat *st,
                         struct cancel *cancel, struct snapshot **ret_snapshot)
{
    struct opened *other;
    while ((other = find(kept, own->volume, own->name, st))) {
        if (other->snapshot) {
            *ret_snapshot = snapshot_ref(other->snapshot);
            return 1;
        }
        if (cancel_is_raised(cancel))
            return -EINTR;
        (void)pthread_cond_wait(&kept->changed, &kept->lock);
    }
    put_first(kept, own);
    return 0;
}

/* Ends what was claimed: it is open, or is in the list no more. */
static void settle(struct kept *kept, struct opened *own, struct snapshot *snapshot)
{
    struct opened *gone;
    {
        scoped_lock(&kept->lock);
        if (snapshot) {
            own->snapshot = snapshot_ref(snapshot);
            gone = take_surplus(kept);
        } else {
            take_out(kept, own);
            own->next = NULL;
            gone = own;
        }
        (void)pthread_cond_broadcast(&kept->changed);
    }
    free_all(gone);
}

static int find_or_open(struct kept *kept, struct opened *own, int fd, const struct stat *st,
                        struct cancel *cancel, struct snapshot **ret_snapshot, struct fail *why)
{
    struct cancel_hook hook = {.run = wake, .data = kept};
    cancel_hook_add(cancel, &hook);
    int r;
    {
        scoped_lock(&kept->lock);
        r = find_or_claim(kept, own, st, cancel, ret_snapshot);
    }
    cancel_hook_remove(cancel, &hook);
    if (r != 0) {
        opened_free(own);
        return r < 0 ? fail_set(why, -r, "interrupted") : 0;
    }
    struct snapshot *snapshot = NULL;
    r = open_or_index(kept, own->volume, own->name, fd, cancel, &snapshot, why);
    settle(kept, own, snapshot);
    if (r == 0)
        *ret_snapshot = snapshot;
    return r;
}

int kept_open(struct kept *kept, const char *volume, const char *name, struct cancel *cancel,
              struct snapshot **ret_snapshot, struct fail *why)
{
    cleanup_close int fd = store_open_archive(kept->store, volume, name, why);
    struct stat st;
    if (fd < 0)
        return fd;
    if (fstat(fd, &st) < 0)
        return fail_errno(why, errno, "snapshot %s", name);
    struct opened *own = opened_new(volume, name, &st);
    if (!own)
        return fail_errno(why, ENOMEM, "snapshot %s", name);
    return find_or_open(kept, own, fd, &st, cancel, ret_snapshot, why);
}

void kept_stop(struct kept *kept)
{
    if (!kept)
        return;
    free_all(kept->opened);
    snapshot_cache_free(kept->cache);
    store_close(kept->store);
    (void)pthread_cond_destroy(&kept->changed);
    (void)pthread_mutex_destroy(&kept->lock);
    free(kept);
}

/* ---- making them --------------------------------------------------------------------------- */

static int check_name(const char *name, struct fail *why)
{
    if (store_is_name(name))
        return 0;
    return fail_set(why, EINVAL,
                    "%s is no name for a snapshot: letters, digits, '_', '-' and '.', a letter "
                    "or digit first, and not now",
                    name);
}

static struct take_conf conf_of(const struct kept *kept, struct job *job, const char *volume,
                                const char *name, const char *consistency)
{
    return (struct take_conf){.store = kept->store,
                              .cache = kept->cache,
                              .log = kept->conf.log,
                              .volume = volume,
                              .name = name,
                              .consistency = consistency,
                              .taken_s = time(NULL),
                              .level = kept->conf.level,
                              .job = job};
}

/* By the way of archive calls. */
static int take_spooled(const struct kept *kept, const struct take_conf *conf,
                        struct cancel *cancel, struct take_result *ret_result, struct fail *why)
{
    char name[NAME_MAX + 1];
    (void)snprintf(name, sizeof(name), "%s.tar.zst", conf->name);
    struct now_archive *archive cleanup_now_archive = NULL;
    int r = now_archive_make(&(struct now_archive_conf){.volumes = kept->conf.volumes,
                                                        .spool = kept->conf.spool,
                                                        .log = kept->conf.log,
                                                        .volume = conf->volume,
                                                        .name = name,
                                                        .format = NOW_TAR},
                             cancel, &archive, why);
    if (r < 0)
        return r;
    if (now_archive_layout(archive)) /* there is another way since */
        return fail_set(why, EAGAIN, "the engine has changed meanwhile: take it again");
    job_set_total(conf->job, now_archive_info(archive).bytes);
    return take_tar(conf, now_archive_fd(archive), cancel, ret_result, why);
}

static int take_by_way(const struct kept *kept, const struct take_conf *conf, struct cancel *cancel,
                       struct take_result *ret_result, struct fail *why)
{
    struct contents *contents cleanup_contents = NULL;
    int r = take_check_absent(conf, why);
    if (r == 0)
        r = volumes_contents(kept->conf.volumes, conf->volume, cancel, &contents, why);
    if (r == -ENOTSUP)
        return take_spooled(kept, conf, cancel, ret_result, why);
    return r < 0 ? r : take_contents(conf, contents, cancel, ret_result, why);
}

int kept_take(struct kept *kept, const char *volume, const char *name, struct cancel *cancel,
              struct fail *why)
{
    int r = check_name(name, why);
    if (r < 0)
        return r;
    struct job job cleanup_job;
    struct take_result result = {0};
    job_begin(&job, kept->conf.jobs, "take", volume, name);
    struct take_conf conf = conf_of(kept, &job, volume, name, "live");
    r = take_by_way(kept, &conf, cancel, &result, why);
    if (r == 0)
        log_event(kept->conf.log,
                  "%s/snapshots/%s.tar.zst: taken: %" PRIu64 " bytes; %" PRIu64 " of %" PRIu64
                  " groups of files are those of the snapshot before",
                  volume, name, result.bytes, result.taken_frames, result.frames);
    return r;
}

int kept_import(struct kept *kept, const char *volume, const char *name, int fd,
                struct cancel *cancel, struct fail *why)
{
    int r = check_name(name, why);
    if (r < 0)
        return r;
    struct job job cleanup_job;
    struct take_result result = {0};
    job_begin(&job, kept->conf.jobs, "import", volume, name);
    struct take_conf conf = conf_of(kept, &job, volume, name, "imported");
    r = import_run(&conf, kept->conf.spool, fd, cancel, &result, why);
    if (r == 0)
        log_event(kept->conf.log, "%s/snapshots/%s.tar.zst: imported: %" PRIu64 " bytes", volume,
                  name, result.bytes);
    return r;
}

int kept_remove(struct kept *kept, const char *volume, const char *name, struct fail *why)
{
    int r = store_remove(kept->store, volume, name, why);
    forget(kept, volume, name);
    return r;
}

void kept_drop_index(struct kept *kept, const char *volume, const char *name)
{
    cleanup_free char *path = store_index_path(kept->store, volume, name);
    if (path)
        (void)unlink(path);
    forget(kept, volume, name);
}

int kept_rename(struct kept *kept, const char *volume, const char *from, const char *to,
                struct fail *why)
{
    int r = check_name(to, why);
    if (r == 0)
        r = store_rename(kept->store, volume, from, to, why);
    if (r == 0)
        forget(kept, volume, from);
    return r;
}
