/* SPDX-License-Identifier: MIT */
/*
 * Two threads.  The follower sits in the stream of events and does no more than
 * mark the catalogue stale.  The lister waits for that mark, asks for both
 * lists and swaps the view in; changes that come meanwhile mark it again, so a
 * burst of them costs a few listings, not one each.
 *
 * One lock guards the view pointer and the marks; it is never held across a
 * call to the engine.
 */
#include "volume/catalogue.h"

#include "engine/containers.h"
#include "engine/events.h"
#include "engine/volumes.h"

#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#define RETRY_FIRST_MS 100
#define RETRY_LAST_MS 2000
/* A directory's name: see path_resolution(7); and our own directory's name. */
#define NAME_MAX_BYTES 255
#define RESERVED_NAME ".dvolfs"

struct view {
    atomic_int refs;
    struct view_volume *items; /* sorted by name; strings are the lists' */
    size_t count;
    struct engine_volume_list volumes;
    struct engine_container_list containers;
};

struct catalogue {
    struct catalogue_conf conf;
    struct cancel *stop;
    pthread_t follower;
    pthread_t lister;

    pthread_mutex_t lock;
    pthread_cond_t stale_changed;
    bool stale;
    bool stopping;
    int64_t lost_since;
    uint64_t next_id;
    struct view *view;
};

/* ---- views ------------------------------------------------------------ */

void view_unref(struct view *view)
{
    if (!view || atomic_fetch_sub(&view->refs, 1) != 1)
        return;
    engine_volume_list_done(&view->volumes);
    engine_container_list_done(&view->containers);
    free(view->items);
    free(view);
}

size_t view_count(const struct view *view)
{
    return view->count;
}

const struct view_volume *view_at(const struct view *view, size_t index)
{
    return &view->items[index];
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct view_volume *)a)->name, ((const struct view_volume *)b)->name);
}

const struct view_volume *view_find(const struct view *view, const char *name)
{
    struct view_volume key = {.name = name};
    return view->count ? bsearch(&key, view->items, view->count, sizeof(key), by_name) : NULL;
}

static int users_of_container(const struct engine_container *container, const char *volume,
                              int (*fn)(void *data, const struct view_user *user), void *data)
{
    for (size_t i = 0; i < container->mount_count; i++) {
        const struct engine_mount *mount = &container->mounts[i];
        if (strcmp(mount->volume, volume) != 0)
            continue;
        int r = fn(data, &(struct view_user){.id = container->id,
                                             .name = container->name,
                                             .state = container->state,
                                             .destination = mount->destination,
                                             .writable = mount->writable});
        if (r < 0)
            return r;
    }
    return 0;
}

int view_users(const struct view *view, const char *volume,
               int (*fn)(void *data, const struct view_user *user), void *data)
{
    for (size_t i = 0; i < view->containers.count; i++) {
        const struct engine_container *container = &view->containers.items[i];
        if (container->label[0]) /* one of ours */
            continue;
        int r = users_of_container(container, volume, fn, data);
        if (r < 0)
            return r;
    }
    return 0;
}

static bool can_be_shown(const char *name)
{
    return name[0] && strlen(name) <= NAME_MAX_BYTES && !strchr(name, '/') &&
           strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && strcmp(name, RESERVED_NAME) != 0;
}

static struct view *view_new(void)
{
    struct view *view = calloc(1, sizeof(*view));
    if (view)
        atomic_init(&view->refs, 1);
    return view;
}

/* Fills the sorted items from the list of volumes. */
static int index_volumes(struct view *view, struct log *log)
{
    size_t total = view->volumes.count;
    view->items = calloc(total ? total : 1, sizeof(*view->items));
    if (!view->items)
        return -ENOMEM;
    for (size_t i = 0; i < total; i++) {
        const struct engine_volume *volume = &view->volumes.items[i];
        if (can_be_shown(volume->name))
            view->items[view->count++] =
                (struct view_volume){.name = volume->name, .json = volume->json};
        else
            log_event(log, "the volume \"%s\" is not shown: its name cannot be a directory's",
                      volume->name);
    }
    qsort(view->items, view->count, sizeof(*view->items), by_name);
    return 0;
}

/* A volume that was in the view before keeps its id. */
static void assign_ids(struct catalogue *catalogue, struct view *view)
{
    for (size_t i = 0; i < view->count; i++) {
        const struct view_volume *old = view_find(catalogue->view, view->items[i].name);
        view->items[i].id = old ? old->id : catalogue->next_id++;
    }
}

/* ---- the lister ------------------------------------------------------- */

DEFINE_CLEANUP(cleanup_catalogue_impl, struct catalogue, catalogue_stop)

static int list_everything(struct catalogue *catalogue, struct fail *why)
{
    struct view *view cleanup_view = view_new();
    if (!view)
        return fail_errno(why, ENOMEM, "listing volumes");
    int r = engine_volume_list(catalogue->conf.engine, catalogue->stop, &view->volumes, why);
    if (r == 0)
        r = engine_container_list(catalogue->conf.engine, catalogue->conf.ignore_label, false,
                                  catalogue->stop, &view->containers, why);
    if (r == 0 && (r = index_volumes(view, catalogue->conf.log)) < 0)
        r = fail_errno(why, -r, "listing volumes");
    if (r < 0)
        return r;
    struct view *old;
    {
        scoped_lock(&catalogue->lock);
        assign_ids(catalogue, view);
        old = catalogue->view;
        catalogue->view = take(view);
    }
    view_unref(old);
    return 0;
}

/* Waits until there is something to list; false when stopping. */
static bool wait_stale(struct catalogue *catalogue)
{
    scoped_lock(&catalogue->lock);
    while (!catalogue->stale && !catalogue->stopping)
        (void)pthread_cond_wait(&catalogue->stale_changed, &catalogue->lock);
    catalogue->stale = false;
    return !catalogue->stopping;
}

static void mark_stale(struct catalogue *catalogue)
{
    scoped_lock(&catalogue->lock);
    catalogue->stale = true;
    (void)pthread_cond_signal(&catalogue->stale_changed);
}

/* Sleeps, or returns false at once when stopping. */
static bool wait_retry(struct catalogue *catalogue, unsigned *delay_ms)
{
    struct pollfd pfd = {.fd = cancel_fd(catalogue->stop), .events = POLLIN};
    (void)poll(&pfd, 1, (int)*delay_ms);
    *delay_ms = *delay_ms * 2 < RETRY_LAST_MS ? *delay_ms * 2 : RETRY_LAST_MS;
    return !cancel_is_raised(catalogue->stop);
}

static void *lister_main(void *arg)
{
    struct catalogue *catalogue = arg;
    unsigned delay_ms = RETRY_FIRST_MS;
    while (wait_stale(catalogue)) {
        struct fail why = FAIL_INIT;
        if (list_everything(catalogue, &why) == 0) {
            delay_ms = RETRY_FIRST_MS;
            continue;
        }
        mark_stale(catalogue);
        if (!wait_retry(catalogue, &delay_ms))
            break;
    }
    return NULL;
}

/* ---- the follower ----------------------------------------------------- */

static void on_connected(void *data)
{
    struct catalogue *catalogue = data;
    bool was_lost;
    {
        scoped_lock(&catalogue->lock);
        was_lost = catalogue->lost_since != 0;
        catalogue->lost_since = 0;
    }
    if (was_lost)
        log_event(catalogue->conf.log, "the engine is back");
    mark_stale(catalogue);
}

static void on_event(void *data, const struct engine_event *event)
{
    (void)event;
    mark_stale(data);
}

static void note_lost(struct catalogue *catalogue, int r, const struct fail *why)
{
    bool first;
    {
        scoped_lock(&catalogue->lock);
        first = catalogue->lost_since == 0;
        if (first)
            catalogue->lost_since = time(NULL);
    }
    if (first)
        log_event(catalogue->conf.log, "lost the engine: %s", fail_text(why, r));
}

/* An engine that comes back may be another version, or another engine. */
static int greet(struct catalogue *catalogue, struct fail *why)
{
    int r = engine_negotiate(catalogue->conf.engine, catalogue->stop, why);
    if (r == 0)
        catalogue->conf.back(catalogue->conf.data);
    return r;
}

static void *follower_main(void *arg)
{
    struct catalogue *catalogue = arg;
    const struct engine_events_listener listener = {.connected = on_connected,
                                                    .event = on_event,
                                                    .data = catalogue,
                                                    .ignore_label = catalogue->conf.ignore_label};
    unsigned delay_ms = RETRY_FIRST_MS;
    do {
        struct fail why = FAIL_INIT;
        int r = catalogue_lost_since(catalogue) ? greet(catalogue, &why) : 0;
        if (r == 0)
            r = engine_events_follow(catalogue->conf.engine, &listener, catalogue->stop, &why);
        if (r == -EINTR)
            break;
        if (catalogue_lost_since(catalogue) == 0) /* it had been connected */
            delay_ms = RETRY_FIRST_MS;
        note_lost(catalogue, r, &why);
    } while (wait_retry(catalogue, &delay_ms));
    return NULL;
}

/* ---- life ------------------------------------------------------------- */

static int start_threads(struct catalogue *catalogue, struct fail *why)
{
    int err = pthread_create(&catalogue->lister, NULL, lister_main, catalogue);
    if (err) {
        catalogue->lister = 0;
        return fail_errno(why, err, "starting a thread");
    }
    err = pthread_create(&catalogue->follower, NULL, follower_main, catalogue);
    if (err) {
        catalogue->follower = 0;
        return fail_errno(why, err, "starting a thread");
    }
    return 0;
}

int catalogue_start(const struct catalogue_conf *conf, struct catalogue **ret_catalogue,
                    struct fail *why)
{
    struct catalogue *catalogue cleanup(cleanup_catalogue_impl) = calloc(1, sizeof(*catalogue));
    if (!catalogue)
        return fail_errno(why, ENOMEM, "listing volumes");
    (void)pthread_mutex_init(&catalogue->lock, NULL);
    (void)pthread_cond_init(&catalogue->stale_changed, NULL);
    catalogue->conf = *conf;
    catalogue->next_id = 1;
    catalogue->stop = cancel_new();
    catalogue->view = view_new();
    if (!catalogue->stop || !catalogue->view)
        return fail_errno(why, ENOMEM, "listing volumes");
    int r = list_everything(catalogue, why);
    if (r == 0)
        r = start_threads(catalogue, why);
    if (r < 0)
        return r;
    *ret_catalogue = take(catalogue);
    return 0;
}

void catalogue_stop(struct catalogue *catalogue)
{
    if (!catalogue)
        return;
    if (catalogue->stop)
        cancel_raise(catalogue->stop);
    {
        scoped_lock(&catalogue->lock);
        catalogue->stopping = true;
        (void)pthread_cond_signal(&catalogue->stale_changed);
    }
    if (catalogue->lister)
        (void)pthread_join(catalogue->lister, NULL);
    if (catalogue->follower)
        (void)pthread_join(catalogue->follower, NULL);
    view_unref(catalogue->view);
    cancel_unref(catalogue->stop);
    (void)pthread_cond_destroy(&catalogue->stale_changed);
    (void)pthread_mutex_destroy(&catalogue->lock);
    free(catalogue);
}

int64_t catalogue_lost_since(struct catalogue *catalogue)
{
    scoped_lock(&catalogue->lock);
    return catalogue->lost_since;
}

struct view *catalogue_view(struct catalogue *catalogue)
{
    scoped_lock(&catalogue->lock);
    atomic_fetch_add(&catalogue->view->refs, 1);
    return catalogue->view;
}
