/* SPDX-License-Identifier: MIT */
/*
 * One thread, the remover, takes helpers away; nobody else does.  A helper is
 * in one of three places: open (counted), in the list to be removed, or gone.
 *
 * A creation whose answer never came may still have happened, or happen later,
 * when a hung engine goes on.  So after one the remover looks for strays, that
 * is, containers with our label that are not known here, until it has seen none
 * for STRAY_SECONDS.
 *
 * One lock guards it all; it is never held across a call to the engine.
 */
#include "volume/helper.h"

#include "agent/program.h"
#include "base/turn.h"
#include "engine/containers.h"
#include "engine/images.h"
#include "engine/volumes.h"
#include "tar/header.h"
#include "volume/owner.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define IMAGE_LABEL "dvolfs.image"
#define LABEL_VOLUME "dvolfs.volume" /* on a helper, for people */
#define LABEL_PROBE "dvolfs.made-by" /* on a volume that our creation made by mistake */
/* Of the image as a tar: the agent, and what stands around it. */
#define IMAGE_MAX_BYTES ((size_t)4 << 20)

#define RETRY_MS 1000
#define REMOVE_TRIES 5
/* One that the engine is removing itself, since it ended, is looked after for about
 * five seconds. */
#define BUSY_MS 50
#define BUSY_TRIES 100
#define STRAY_SECONDS 30
#define STRAY_INTERVAL_SECONDS 2
#define STOP_STRAY_SECONDS 2   /* at the end of the mount */
#define IMAGE_LINGER_SECONDS 2 /* making it anew costs as much as an archive call */
#define CLOSE_WAIT_SECONDS 3
#define STOP_WAIT_SECONDS 8
#define AGENT_MAX_PIDS 64
#define UNKNOWN_OWNER_MAX_AGE_SECONDS (24 * 3600)

struct helper {
    struct helpers *helpers;
    char *id;
    unsigned tries;      /* to remove it */
    unsigned busy;       /* how often the engine was removing it */
    struct helper *next; /* in the list of open ones, or of those to be removed */
};

struct helpers {
    struct engine *engine;
    struct log *log;
    char owner[OWNER_BYTES];
    pthread_t remover;

    pthread_mutex_t lock;
    pthread_cond_t changed; /* something to remove, something removed, a slot free, stopping */
    struct helper *open;
    struct helper *to_remove;
    unsigned slots_used;
    unsigned removals; /* counts what has been removed */
    unsigned long long creations;
    unsigned creating; /* of those, whose ids are not known yet */
    bool stopping;
    time_t stop_by;
    struct cancel *stop; /* raised then: of what the remover asks of the engine */
    bool remover_ended;
    time_t strays_until; /* 0: none expected */
    time_t next_stray_look;
    time_t image_idle_since; /* 0: in use, or there is none */
    bool image_made;
    unsigned image_makings; /* counts them */
    struct turn image_turn; /* of making it; not under the lock */
};

static time_t now_s(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec;
}

/* Until something changes, or then. */
static void wait_until(struct helpers *helpers, time_t until)
{
    struct timespec ts = {.tv_sec = until};
    (void)pthread_cond_timedwait(&helpers->changed, &helpers->lock, &ts);
}

/* Until something changes, or so long. */
static void wait_ms(struct helpers *helpers, unsigned ms)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    ts.tv_nsec += (long)(ms % 1000) * 1000000;
    ts.tv_sec += ms / 1000 + ts.tv_nsec / 1000000000;
    ts.tv_nsec %= 1000000000;
    (void)pthread_cond_timedwait(&helpers->changed, &helpers->lock, &ts);
}

/* ---- the image ---------------------------------------------------------- */

/* The tag is the program's hash: another version of it is another image. */
static char *image_name(void)
{
    char *name = NULL;
    return asprintf(&name, HELPER_IMAGE ":%s", agent_program_hash) < 0 ? NULL : name;
}

/* An archive of the agent alone. */
static int pack_image(struct buf *out)
{
    struct tar_entry entry = {.name = (char *)HELPER_PROGRAM + 1,
                              .mode = S_IFREG | 0555,
                              .size_bytes = agent_program_bytes};
    int r = tar_header_write(out, "", &entry);
    if (r == 0)
        r = buf_add(out, agent_program, agent_program_bytes);
    return r == 0 ? buf_add_zeros(out, tar_padding_bytes(agent_program_bytes) + TAR_END_BYTES) : r;
}

static int import_image(struct helpers *helpers, struct cancel *cancel, struct fail *why)
{
    struct buf tar cleanup_buf;
    buf_init(&tar, IMAGE_MAX_BYTES);
    int r = pack_image(&tar);
    if (r < 0)
        return fail_errno(why, -r, "the helper's image");
    r = engine_image_import(helpers->engine, HELPER_IMAGE, agent_program_hash, IMAGE_LABEL "=1",
                            tar.data, tar.len, cancel, why);
    if (r < 0)
        return fail_prefix(why, r, "making the helper's image");
    scoped_lock(&helpers->lock);
    helpers->image_makings++;
    helpers->image_made = true;
    return 0;
}

static unsigned image_makings(struct helpers *helpers)
{
    scoped_lock(&helpers->lock);
    return helpers->image_makings;
}

/* One at a time, and not again where it was made since it was missed: each import
 * takes the tag from the one before, which would stay behind without a name. */
static int make_image(struct helpers *helpers, unsigned makings_before, struct cancel *cancel,
                      struct fail *why)
{
    int r = turn_take(&helpers->image_turn, cancel);
    if (r < 0)
        return fail_set(why, -r, "interrupted");
    if (image_makings(helpers) == makings_before)
        r = import_image(helpers, cancel, why);
    turn_give_back(&helpers->image_turn);
    return r;
}

static void remove_image(struct helpers *helpers)
{
    cleanup_free char *name = image_name();
    struct fail why = FAIL_INIT;
    int r = name ? engine_image_remove(helpers->engine, name, helpers->stop, &why) : -ENOMEM;
    /* Two of us that made it at the same time have left one without a name. */
    (void)!engine_images_prune(helpers->engine, IMAGE_LABEL "=1", helpers->stop, NULL);
    /* -EBUSY: another dvolfs has a helper of it, and removes it in its turn. */
    if (r < 0 && r != -ENOENT && r != -EBUSY)
        log_event(helpers->log, "the image %s stays: %s", name ? name : HELPER_IMAGE,
                  fail_text(&why, r));
}

/* ---- the remover ---------------------------------------------------------- */

static void helper_free(struct helper *helper)
{
    free(helper->id);
    free(helper);
}

/* Whether it is not to be touched: one of ours, or perhaps just becoming one. */
static bool is_known(struct helpers *helpers, const char *id)
{
    scoped_lock(&helpers->lock);
    if (helpers->creating)
        return true;
    for (struct helper *at = helpers->open; at; at = at->next)
        if (at->id && strcmp(at->id, id) == 0)
            return true;
    for (struct helper *at = helpers->to_remove; at; at = at->next)
        if (strcmp(at->id, id) == 0)
            return true;
    return false;
}

/* Whether a container that carries our label should go. */
static bool is_orphan(struct helpers *helpers, const struct engine_container *container)
{
    /* What was made of another image is somebody's own, whatever labels it got. */
    if (strcmp(container->state, "created") != 0 &&
        strncmp(container->image, HELPER_IMAGE ":", sizeof(HELPER_IMAGE ":") - 1) != 0)
        return false;
    if (strcmp(container->label, helpers->owner) == 0)
        return !is_known(helpers, container->id);
    switch (owner_check(container->label, container->created_s)) {
    case OWNER_ALIVE:
        return false;
    case OWNER_DEAD:
        return true;
    case OWNER_UNKNOWN:
        break;
    }
    return time(NULL) - container->created_s > UNKNOWN_OWNER_MAX_AGE_SECONDS;
}

int helpers_sweep(struct helpers *helpers, struct fail *why)
{
    struct engine_container_list list;
    int r = engine_container_list(helpers->engine, HELPER_LABEL, true, helpers->stop, &list, why);
    if (r < 0)
        return r;
    int removed = 0;
    for (size_t i = 0; i < list.count && r >= 0; i++) {
        if (!is_orphan(helpers, &list.items[i]))
            continue;
        r = engine_container_remove(helpers->engine, list.items[i].id, helpers->stop, why);
        if (r == -ENOENT || r == -EBUSY) /* somebody else is removing it */
            r = 0;
        removed++;
    }
    engine_container_list_done(&list);
    return r < 0 ? r : removed;
}

/* Called without the lock: looks for strays once, and says when to look again. */
static void look_for_strays(struct helpers *helpers)
{
    int r = helpers_sweep(helpers, NULL);
    scoped_lock(&helpers->lock);
    if (r != 0 && !helpers->stopping) /* found some, or could not look: the wait begins anew */
        helpers->strays_until = now_s() + STRAY_SECONDS;
    if (now_s() >= helpers->strays_until)
        helpers->strays_until = 0;
    helpers->next_stray_look = now_s() + (helpers->stopping ? 1 : STRAY_INTERVAL_SECONDS);
}

/* With the lock. */
static void expect_strays(struct helpers *helpers)
{
    helpers->strays_until = now_s() + STRAY_SECONDS;
    helpers->next_stray_look = now_s();
}

/* With the lock: how many stand before it. */
static unsigned append_to_remove(struct helpers *helpers, struct helper *helper)
{
    unsigned ahead = 0;
    helper->next = NULL;
    struct helper **last = &helpers->to_remove;
    for (; *last; last = &(*last)->next)
        ahead++;
    *last = helper;
    return ahead;
}

/* Whether to try again, and then when: *ret_ms. */
static bool should_retry(struct helper *helper, int r, unsigned *ret_ms)
{
    if (r == 0 || r == -ENOENT)
        return false;
    *ret_ms = r == -EBUSY ? BUSY_MS : RETRY_MS;
    return r == -EBUSY ? ++helper->busy < BUSY_TRIES : ++helper->tries < REMOVE_TRIES;
}

/* Removes the first of the list.  Called with the lock, which it lets go meanwhile. */
static void remove_first(struct helpers *helpers)
{
    struct helper *helper = helpers->to_remove;
    (void)pthread_mutex_unlock(&helpers->lock);
    int r = engine_container_remove(helpers->engine, helper->id, helpers->stop, NULL);
    (void)pthread_mutex_lock(&helpers->lock);
    /* Only this thread takes from the list; others append. */
    helpers->to_remove = helper->next;
    unsigned ms;
    if (should_retry(helper, r, &ms)) {
        append_to_remove(helpers, helper); /* behind those that may fare better */
        wait_ms(helpers, ms);
        return;
    }
    if (r < 0 && r != -ENOENT) /* from now on it is a stray */
        expect_strays(helpers);
    helper_free(helper);
    helpers->removals++;
    helpers->slots_used--;
    if (helpers->slots_used == 0)
        helpers->image_idle_since = now_s();
    (void)pthread_cond_broadcast(&helpers->changed);
}

static bool image_is_due(const struct helpers *helpers)
{
    return helpers->image_made && helpers->slots_used == 0 && !helpers->strays_until &&
           (helpers->stopping || now_s() >= helpers->image_idle_since + IMAGE_LINGER_SECONDS);
}

static time_t next_wake(const struct helpers *helpers)
{
    time_t wake = now_s() + 3600;
    if (helpers->image_made && helpers->slots_used == 0 && !helpers->strays_until)
        wake = helpers->image_idle_since + IMAGE_LINGER_SECONDS;
    if (helpers->strays_until && helpers->next_stray_look < wake)
        wake = helpers->next_stray_look;
    return wake;
}

/* One thing to do, or a wait for one.  With the lock. */
static void remover_step(struct helpers *helpers)
{
    if (helpers->to_remove) {
        remove_first(helpers);
    } else if (helpers->strays_until && now_s() >= helpers->next_stray_look) {
        (void)pthread_mutex_unlock(&helpers->lock);
        look_for_strays(helpers);
        (void)pthread_mutex_lock(&helpers->lock);
    } else if (image_is_due(helpers)) {
        helpers->image_made = false;
        (void)pthread_mutex_unlock(&helpers->lock);
        remove_image(helpers);
        (void)pthread_mutex_lock(&helpers->lock);
    } else {
        wait_until(helpers, next_wake(helpers));
    }
}

static bool remover_is_done(const struct helpers *helpers)
{
    if (!helpers->stopping)
        return false;
    bool nothing_left = !helpers->to_remove && !helpers->strays_until && !helpers->image_made;
    return nothing_left || now_s() >= helpers->stop_by;
}

static void *remover_main(void *arg)
{
    struct helpers *helpers = arg;
    (void)pthread_mutex_lock(&helpers->lock);
    while (!remover_is_done(helpers))
        remover_step(helpers);
    helpers->remover_ended = true;
    (void)pthread_cond_broadcast(&helpers->changed);
    (void)pthread_mutex_unlock(&helpers->lock);
    return NULL;
}

/* ---- life ------------------------------------------------------------------ */

static void helpers_free(struct helpers *helpers)
{
    struct helper *next;
    for (struct helper *at = helpers->to_remove; at; at = next) {
        next = at->next;
        log_event(helpers->log, "the helper %s stays: the engine did not remove it", at->id);
        helper_free(at);
    }
    (void)pthread_cond_destroy(&helpers->changed);
    turn_done(&helpers->image_turn);
    cancel_unref(helpers->stop);
    (void)pthread_mutex_destroy(&helpers->lock);
    free(helpers);
}

int helpers_start(struct engine *engine, struct log *log, struct helpers **ret_helpers,
                  struct fail *why)
{
    struct helpers *helpers = calloc(1, sizeof(*helpers));
    if (!helpers)
        return fail_errno(why, ENOMEM, "helpers");
    helpers->engine = engine;
    helpers->log = log;
    helpers->image_made = true; /* perhaps, by one that died: removed when not needed soon */
    helpers->image_idle_since = now_s();
    (void)pthread_mutex_init(&helpers->lock, NULL);
    turn_init(&helpers->image_turn);
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&helpers->changed, &attr);
    (void)pthread_condattr_destroy(&attr);
    helpers->stop = cancel_new();
    int r = helpers->stop ? owner_self(helpers->owner) : -errno;
    if (!helpers->stop)
        r = fail_errno(why, -r, "helpers");
    else if (r < 0)
        r = fail_set(why, -r, "/proc does not say who this process is");
    else if ((r = pthread_create(&helpers->remover, NULL, remover_main, helpers)) != 0)
        r = fail_errno(why, r, "starting a thread");
    if (r < 0) {
        helpers_free(helpers);
        return r;
    }
    *ret_helpers = helpers;
    return 0;
}

void helpers_stop(struct helpers *helpers)
{
    if (!helpers)
        return;
    {
        scoped_lock(&helpers->lock);
        helpers->stopping = true;
        helpers->stop_by = now_s() + STOP_WAIT_SECONDS;
        if (helpers->strays_until > now_s() + STOP_STRAY_SECONDS)
            helpers->strays_until = now_s() + STOP_STRAY_SECONDS;
        helpers->next_stray_look = now_s();
        (void)pthread_cond_broadcast(&helpers->changed);
        while (!helpers->remover_ended && now_s() < helpers->stop_by)
            wait_until(helpers, helpers->stop_by);
    }
    cancel_raise(helpers->stop); /* an engine that hangs is not waited for */
    (void)pthread_join(helpers->remover, NULL);
    helpers_free(helpers);
}

/* ---- one helper --------------------------------------------------------------- */

static void wake_up(void *data)
{
    struct helpers *helpers = data;
    scoped_lock(&helpers->lock);
    (void)pthread_cond_broadcast(&helpers->changed);
}

/* Waits for a free slot and puts the helper among the open ones. */
static int take_slot(struct helpers *helpers, struct helper *helper, struct cancel *cancel,
                     struct fail *why)
{
    struct cancel_hook hook = {.run = wake_up, .data = helpers};
    cancel_hook_add(cancel, &hook);
    int r = 0;
    {
        scoped_lock(&helpers->lock);
        while (helpers->slots_used >= HELPER_MAX && !cancel_is_raised(cancel))
            (void)pthread_cond_wait(&helpers->changed, &helpers->lock);
        if (cancel_is_raised(cancel)) {
            r = -EINTR;
        } else {
            helpers->slots_used++;
            helper->next = helpers->open;
            helpers->open = helper;
        }
    }
    cancel_hook_remove(cancel, &hook);
    return r < 0 ? fail_set(why, EINTR, "interrupted") : 0;
}

/* With the lock. */
static void unlink_open(struct helpers *helpers, struct helper *helper)
{
    struct helper **at = &helpers->open;
    while (*at != helper)
        at = &(*at)->next;
    *at = helper->next;
}

static cJSON *add_object(cJSON *parent, const char *key)
{
    return cJSON_AddObjectToObject(parent, key);
}

static cJSON *add_mount(cJSON *mounts, const char *type, const char *source, const char *target,
                        bool read_only)
{
    cJSON *mount = cJSON_CreateObject();
    if (!cJSON_AddStringToObject(mount, "Type", type) ||
        !cJSON_AddStringToObject(mount, "Source", source) ||
        !cJSON_AddStringToObject(mount, "Target", target) ||
        !cJSON_AddBoolToObject(mount, "ReadOnly", read_only) ||
        !cJSON_AddItemToArray(mounts, mount)) {
        cJSON_Delete(mount);
        return NULL;
    }
    return mount;
}

static bool add_mounts(cJSON *host, const struct helper_conf *conf, const char *mark)
{
    cJSON *mounts = cJSON_AddArrayToObject(host, "Mounts");
    cJSON *volume = add_mount(mounts, "volume", conf->volume, HELPER_MOUNT, !conf->writable);
    cJSON *options = add_object(volume, "VolumeOptions");
    /* NoCopy: an image's files are never copied into the volume.  The label is
     * put only on a volume that this very creation makes: see probe_volume. */
    return options && cJSON_AddBoolToObject(options, "NoCopy", 1) &&
           cJSON_AddStringToObject(add_object(options, "Labels"), LABEL_PROBE, mark) &&
           (!conf->socket || add_mount(mounts, "bind", conf->socket, HELPER_SOCKET, false));
}

static bool add_strings(cJSON *parent, const char *key, const char *const *strings)
{
    cJSON *array = cJSON_AddArrayToObject(parent, key);
    bool ok = array;
    for (; ok && *strings; strings++)
        ok = cJSON_AddItemToArray(array, cJSON_CreateString(*strings));
    return ok;
}

/* What an agent may do: read all files, leaving no time of access (FOWNER is for
 * O_NOATIME, open(2)), and talk by its stdin, its stdout and its socket. */
static bool add_agent(cJSON *root, cJSON *host, const struct helper_conf *conf)
{
    static const char *const none[] = {"ALL", NULL};
    static const char *const wanted[] = {"DAC_READ_SEARCH", "FOWNER", NULL};
    static const char *const security[] = {"no-new-privileges", "label=disable", NULL};
    const char *cmd[] = {HELPER_PROGRAM, "--nonce",    conf->nonce,
                         "--root",       HELPER_MOUNT, conf->socket ? "--socket" : NULL,
                         HELPER_SOCKET,  NULL};
    return add_strings(root, "Cmd", cmd) && cJSON_AddBoolToObject(root, "OpenStdin", 1) &&
           cJSON_AddBoolToObject(root, "StdinOnce", 1) &&
           cJSON_AddBoolToObject(root, "AttachStdin", 1) &&
           cJSON_AddStringToObject(root, "User", "0:0") &&
           cJSON_AddBoolToObject(host, "ReadonlyRootfs", 1) &&
           /* When we die its stdin ends, it ends with that, and nothing is left.
            * Volumes with a name, as the mount gives it, are never removed with it
            * (moby daemon/mounts.go, removeMountPoints). */
           cJSON_AddBoolToObject(host, "AutoRemove", 1) &&
           cJSON_AddNumberToObject(host, "PidsLimit", AGENT_MAX_PIDS) &&
           add_strings(host, "CapDrop", none) && add_strings(host, "CapAdd", wanted) &&
           add_strings(host, "SecurityOpt", security);
}

/* A command is demanded; it never runs. */
static bool add_nothing(cJSON *root)
{
    static const char *const cmd[] = {"never-started", NULL};
    return add_strings(root, "Cmd", cmd);
}

/* The body of the creation; malloc'ed, NULL without memory. */
static char *container_json(struct helpers *helpers, const struct helper_conf *conf,
                            const char *mark)
{
    cleanup_free char *image = image_name();
    cJSON *root = cJSON_CreateObject();
    cJSON *labels = add_object(root, "Labels");
    cJSON *host = add_object(root, "HostConfig");
    cJSON *log = add_object(host, "LogConfig");
    bool ok = image && log && cJSON_AddStringToObject(root, "Image", image) &&
              cJSON_AddBoolToObject(root, "NetworkDisabled", 1) &&
              cJSON_AddStringToObject(labels, HELPER_LABEL, helpers->owner) &&
              cJSON_AddStringToObject(labels, LABEL_VOLUME, conf->volume) &&
              cJSON_AddStringToObject(host, "NetworkMode", "none") &&
              /* With userns-remap the archive calls would shift ids one way
               * only. */
              cJSON_AddStringToObject(host, "UsernsMode", "host") &&
              cJSON_AddStringToObject(log, "Type", "none") && add_mounts(host, conf, mark) &&
              (conf->nonce ? add_agent(root, host, conf) : add_nothing(root));
    char *text = ok ? cJSON_PrintUnformatted(root) : NULL;
    cJSON_Delete(root);
    return text;
}

/*
 * Creating a container with a volume that has gone creates the volume: an empty
 * one, whose backup would be empty as well.  An existing volume's labels are
 * not touched, so our label on it proves that it is such a one.
 */
static int probe_volume(struct helpers *helpers, const char *volume, const char *mark,
                        const char *id, struct fail *why)
{
    cleanup_free char *made_by = NULL;
    int r = engine_volume_label(helpers->engine, volume, LABEL_PROBE, NULL, &made_by, why);
    /* Another creation's mark is on a volume that was kept: that one is somebody's. */
    if (r < 0 || !made_by || strcmp(made_by, mark) != 0)
        return r;
    if (engine_container_remove(helpers->engine, id, NULL, NULL) == 0)
        (void)!engine_volume_remove(helpers->engine, volume, NULL, NULL);
    return fail_set(why, ENOENT, "there is no volume %s", volume);
}

static int create_once(struct helpers *helpers, const char *json, struct cancel *cancel,
                       char **ret_id, struct fail *why)
{
    /* One that is given up, or has no answer, may happen all the same. */
    int r = engine_container_create(helpers->engine, json, cancel, ret_id, why);
    if (r < 0 && r != -ENOENT) {
        scoped_lock(&helpers->lock);
        expect_strays(helpers);
        (void)pthread_cond_broadcast(&helpers->changed);
    }
    return r;
}

/* The image may never have been made, or have been removed by another dvolfs. */
static int create(struct helpers *helpers, const char *json, struct cancel *cancel, char **ret_id,
                  struct fail *why)
{
    int r = -ENOENT;
    for (int tries = 0; tries < 3 && r == -ENOENT; tries++) {
        unsigned makings = image_makings(helpers);
        r = create_once(helpers, json, cancel, ret_id, why);
        if (r != -ENOENT)
            break;
        int made = make_image(helpers, makings, cancel, why);
        if (made < 0)
            return made;
    }
    if (r == 0) { /* with an image that may be another's, who died */
        scoped_lock(&helpers->lock);
        helpers->image_made = true;
    }
    return r == -ENOENT ? fail_prefix(why, -EIO, "making a helper") : r;
}

/* What no other creation, of this process or another, has. */
static void make_mark(struct helpers *helpers, char *mark, size_t room)
{
    scoped_lock(&helpers->lock);
    (void)snprintf(mark, room, "%s:%llu", helpers->owner, helpers->creations++);
}

static int set_up(struct helper *helper, const struct helper_conf *conf, struct cancel *cancel,
                  struct fail *why)
{
    struct helpers *helpers = helper->helpers;
    char mark[2 * OWNER_BYTES];
    make_mark(helpers, mark, sizeof(mark));
    cleanup_free char *json = container_json(helpers, conf, mark);
    if (!json)
        return fail_errno(why, ENOMEM, "volume %s", conf->volume);
    {
        scoped_lock(&helpers->lock);
        helpers->creating++;
    }
    char *id = NULL;
    int r = create(helpers, json, cancel, &id, why);
    {
        scoped_lock(&helpers->lock);
        helpers->creating--;
        if (r == 0)
            helper->id = id;
    }
    if (r < 0)
        return fail_prefix(why, r, "making a helper for volume %s", conf->volume);
    return probe_volume(helpers, conf->volume, mark, id, why);
}

int helper_open(struct helpers *helpers, const struct helper_conf *conf, struct cancel *cancel,
                struct helper **ret_helper, struct fail *why)
{
    struct helper *helper = calloc(1, sizeof(*helper));
    if (!helper)
        return fail_errno(why, ENOMEM, "volume %s", conf->volume);
    helper->helpers = helpers;
    int r = take_slot(helpers, helper, cancel, why);
    if (r < 0) {
        helper_free(helper);
        return r;
    }
    r = set_up(helper, conf, cancel, why);
    if (r < 0) {
        helper_close(helper);
        return r;
    }
    *ret_helper = helper;
    return 0;
}

/* With the lock: has it removed.  The number of removals after which it is gone. */
static unsigned give_up(struct helper *helper)
{
    struct helpers *helpers = helper->helpers;
    unsigned target = helpers->removals;
    unlink_open(helpers, helper);
    if (helper->id) {
        /* First in, first out: it is gone once as many have been removed as stand
         * in the list now. */
        target += 1 + append_to_remove(helpers, helper);
    } else { /* its creation failed */
        helper_free(helper);
        helpers->slots_used--;
        if (helpers->slots_used == 0)
            helpers->image_idle_since = now_s();
    }
    (void)pthread_cond_broadcast(&helpers->changed);
    return target;
}

void helper_drop(struct helper *helper)
{
    if (!helper)
        return;
    scoped_lock(&helper->helpers->lock);
    (void)give_up(helper);
}

void helper_close(struct helper *helper)
{
    if (!helper)
        return;
    struct helpers *helpers = helper->helpers;
    scoped_lock(&helpers->lock);
    unsigned target = give_up(helper);
    time_t until = now_s() + CLOSE_WAIT_SECONDS;
    while ((int)(target - helpers->removals) > 0 && now_s() < until)
        wait_until(helpers, until);
}

const char *helper_container(const struct helper *helper)
{
    return helper->id;
}

struct engine *helper_engine(const struct helper *helper)
{
    return helper->helpers->engine;
}
