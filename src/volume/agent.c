/* SPDX-License-Identifier: MIT */
/*
 * One thread, the reaper, ends what is idle.  A volume's agent is in one of three
 * states: none, being started (by one thread; others wait), or there.  One lock
 * guards it all; none of the slow work is done under it: an agent that is let go
 * ends with its link, and the helpers' remover does the rest.
 */
#include "volume/agent.h"

#include "volume/agent_here.h"
#include "volume/agent_start.h"

#include <string.h>
#include <time.h>

/* Between two lines in the log about one volume. */
#define QUIET_SECONDS 60

struct agent_volume {
    struct agents *agents;
    char *name;
    unsigned users;   /* contents */
    unsigned works;   /* between enter and leave */
    bool is_changing; /* a thread starts its agent; others wait */
    time_t idle_since;
    unsigned failures; /* to start one; the last one's error and reason: */
    int error;
    struct fail reason;
    time_t quiet_until; /* further failures are not worth a line in the log */
    struct helper *helper;
    struct agent_link *link; /* NULL: none */
    struct contents *here;   /* with the link; NULL: all is asked over it */
    struct agent_volume *next;
};

struct agents {
    struct starter *starter;
    struct log *log;
    pthread_t reaper;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct agent_volume *volumes;
    bool ever_worked;
    bool cannot_work;
    char *doubted;      /* a volume for which it did not work; NULL: none */
    struct fail reason; /* why it cannot */
    bool stopping;
};

static time_t now_s(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec;
}

/* ---- starting --------------------------------------------------------------------- */

/* Errors that say nothing about agents on this engine. */
static bool is_passing(int r)
{
    static const int passing[] = {EINTR,  ENOENT, EHOSTDOWN, ETIMEDOUT, EACCES,
                                  ENOMEM, EMFILE, ENFILE,    EAGAIN,    EBUSY};
    for (size_t i = 0; i < sizeof(passing) / sizeof(*passing); i++)
        if (r == -passing[i])
            return true;
    return false;
}

/* With the lock.  One volume that cannot be mounted does not speak against agents:
 * only where none works for another either is it taken to be the engine. */
static void doubt(struct agents *agents, const struct agent_volume *volume)
{
    if (agents->ever_worked || is_passing(volume->error))
        return;
    if (!agents->doubted)
        agents->doubted = strdup(volume->name); /* without memory the next one will do */
    else if (strcmp(agents->doubted, volume->name) != 0)
        agents->cannot_work = true;
    agents->reason = volume->reason;
}

/* With the lock. */
static void note_failure(struct agent_volume *volume, int r, const struct fail *why)
{
    struct agents *agents = volume->agents;
    if (r == -EINTR)
        return;
    volume->failures++;
    volume->error = r;
    volume->reason = *why;
    if (r != -ENOENT && now_s() >= volume->quiet_until) {
        log_event(agents->log, "%s", fail_text(why, r)); /* it names the volume */
        volume->quiet_until = now_s() + QUIET_SECONDS;
    }
    doubt(agents, volume);
}

/* With the lock: lets the volume's agent go.  What is returned is to be unref'd without the
 * lock: the last reference may unmount a file system, which is written to the disk then. */
must_check static struct contents *end(struct agent_volume *volume)
{
    struct agent_link *link = take(volume->link);
    if (!link)
        return NULL;
    agent_link_end(link); /* open files may have references */
    agent_link_unref(link);
    helper_drop(take(volume->helper));
    return take(volume->here);
}

/* With the lock, which it lets go meanwhile. */
static int start(struct agent_volume *volume, struct cancel *cancel, struct fail *why)
{
    struct agents *agents = volume->agents;
    struct helper *helper = NULL;
    struct agent_link *link = NULL;
    struct fail reason = FAIL_INIT;
    struct contents *gone = end(volume);
    volume->is_changing = true;
    (void)pthread_mutex_unlock(&agents->lock);
    contents_unref(gone);
    int r = starter_run(agents->starter, volume->name, cancel, &helper, &link, &reason);
    struct contents *here = r == 0 ? agent_here(link, cancel) : NULL;
    (void)pthread_mutex_lock(&agents->lock);
    volume->is_changing = false;
    volume->helper = helper;
    volume->link = link;
    volume->here = here;
    volume->idle_since = now_s();
    (void)pthread_cond_broadcast(&agents->changed);
    if (r == 0) {
        agents->ever_worked = true;
        volume->quiet_until = 0;
        return 0;
    }
    note_failure(volume, r, &reason);
    if (why)
        *why = reason;
    return r;
}

static void wake_up(void *data)
{
    struct agents *agents = data;
    scoped_lock(&agents->lock);
    (void)pthread_cond_broadcast(&agents->changed);
}

/* With the lock: waits until nobody changes the volume's agent. */
static int await_change(struct agent_volume *volume, struct cancel *cancel)
{
    while (volume->is_changing && !cancel_is_raised(cancel))
        (void)pthread_cond_wait(&volume->agents->changed, &volume->agents->lock);
    return cancel_is_raised(cancel) ? -EINTR : 0;
}

/* With the lock.  Who reads in place would not notice that the agent is gone, and with it
 * perhaps the volume. */
static bool has_agent(const struct agent_volume *volume)
{
    return volume->link && (volume->here ? !agent_link_has_ended(volume->link)
                                         : !agent_link_is_broken(volume->link));
}

/* With the lock: makes it so that there is a link. */
static int reach(struct agent_volume *volume, struct cancel *cancel, struct fail *why)
{
    unsigned failures = volume->failures;
    int r = await_change(volume, cancel);
    if (r < 0 || has_agent(volume))
        return r;
    /* What came of the start that was waited for counts for all who did: or they
     * would fail one after the other. */
    bool has_failed = volume->failures != failures;
    if (!has_failed && !volume->agents->cannot_work)
        return start(volume, cancel, why);
    if (why)
        *why = has_failed ? volume->reason : volume->agents->reason;
    return has_failed ? volume->error : -ENOTSUP;
}

/* With the lock. */
static int enter(struct agent_volume *volume, struct cancel *cancel, struct agent_link **ret_link,
                 struct fail *why)
{
    int r = reach(volume, cancel, why);
    if (r < 0)
        return r;
    volume->works++;
    *ret_link = agent_link_ref(volume->link);
    return 0;
}

int agent_volume_enter(struct agent_volume *volume, struct cancel *cancel,
                       struct agent_link **ret_link, struct fail *why)
{
    struct cancel_hook hook = {.run = wake_up, .data = volume->agents};
    cancel_hook_add(cancel, &hook);
    int r;
    {
        scoped_lock(&volume->agents->lock);
        r = enter(volume, cancel, ret_link, why);
    }
    cancel_hook_remove(cancel, &hook);
    return r;
}

void agent_volume_leave(struct agent_volume *volume, struct agent_link *link)
{
    struct agents *agents = volume->agents;
    agent_link_unref(link);
    scoped_lock(&agents->lock);
    volume->works--;
    volume->idle_since = now_s();
}

struct contents *agent_volume_here(struct agent_volume *volume)
{
    scoped_lock(&volume->agents->lock);
    return volume->here ? contents_ref(volume->here) : NULL;
}

void agent_volume_hold(struct agent_volume *volume)
{
    scoped_lock(&volume->agents->lock);
    volume->works++;
}

void agent_volume_let_go(struct agent_volume *volume)
{
    scoped_lock(&volume->agents->lock);
    volume->works--;
    volume->idle_since = now_s();
}

/* ---- the reaper ---------------------------------------------------------------------- */

static bool is_due(const struct agent_volume *volume, time_t now)
{
    return volume->link && volume->works == 0 &&
           (volume->agents->stopping || now >= volume->idle_since + AGENT_IDLE_SECONDS ||
            !has_agent(volume));
}

static void forget(struct agent_volume **at)
{
    struct agent_volume *volume = *at;
    *at = volume->next;
    free(volume->name);
    free(volume);
}

/* Whether nothing is left to be known of it. */
static bool is_forgettable(const struct agent_volume *volume, time_t now)
{
    return volume->users == 0 && volume->works == 0 && !volume->link && !volume->is_changing &&
           (volume->agents->stopping || now >= volume->quiet_until);
}

/* Lets go of what is idle, with the lock, which it lets go meanwhile. */
static void reap(struct agents *agents)
{
    time_t now = now_s();
    struct agent_volume **at = &agents->volumes;
    while (*at) {
        struct contents *gone = is_due(*at, now) ? end(*at) : NULL;
        if (gone) {
            (void)pthread_mutex_unlock(&agents->lock);
            contents_unref(gone);
            (void)pthread_mutex_lock(&agents->lock);
            at = &agents->volumes; /* there may be others now */
        } else if (is_forgettable(*at, now))
            forget(at);
        else
            at = &(*at)->next;
    }
}

static void *reaper_main(void *arg)
{
    struct agents *agents = arg;
    (void)pthread_mutex_lock(&agents->lock);
    for (;;) {
        reap(agents);
        if (agents->stopping)
            break;
        struct timespec until = {.tv_sec = now_s() + (agents->volumes ? 1 : 3600)};
        (void)pthread_cond_timedwait(&agents->changed, &agents->lock, &until);
    }
    (void)pthread_mutex_unlock(&agents->lock);
    return NULL;
}

/* ---- volumes --------------------------------------------------------------------------- */

static struct agent_volume *find(struct agents *agents, const char *name)
{
    struct agent_volume *at = agents->volumes;
    while (at && strcmp(at->name, name) != 0)
        at = at->next;
    return at;
}

/* Counts a user.  NULL: out of memory. */
static struct agent_volume *find_or_add(struct agents *agents, const char *name)
{
    scoped_lock(&agents->lock);
    struct agent_volume *volume = find(agents, name);
    if (!volume) {
        volume = calloc(1, sizeof(*volume));
        if (!volume || !(volume->name = strdup(name))) {
            free(volume);
            return NULL;
        }
        volume->agents = agents;
        volume->next = agents->volumes;
        agents->volumes = volume;
        (void)pthread_cond_broadcast(&agents->changed); /* the reaper is to look now and then */
    }
    volume->users++;
    return volume;
}

void agent_volume_unref(struct agent_volume *volume)
{
    scoped_lock(&volume->agents->lock);
    volume->users--;
}

/* Whether a way without agents may do better. */
static bool may_be_the_engine(struct agents *agents, int r)
{
    scoped_lock(&agents->lock);
    return r == -ENOTSUP || (!agents->ever_worked && !is_passing(r));
}

int agents_contents(struct agents *agents, const char *volume, struct cancel *cancel,
                    struct contents **ret_contents, struct fail *why)
{
    struct agent_volume *found = find_or_add(agents, volume);
    if (!found)
        return fail_errno(why, ENOMEM, "volume %s", volume);
    struct agent_link *link;
    int r = agent_volume_enter(found, cancel, &link, why);
    if (r < 0) {
        agent_volume_unref(found);
        return may_be_the_engine(agents, r) ? -ENOTSUP : r;
    }
    r = agent_contents_new(found, ret_contents);
    agent_volume_leave(found, link);
    return r < 0 ? fail_errno(why, -r, "volume %s", volume) : 0;
}

char *agents_helper(struct agents *agents, const char *volume, enum agents_how *ret_how)
{
    scoped_lock(&agents->lock);
    struct agent_volume *found = find(agents, volume);
    if (!found || !found->helper)
        return NULL;
    bool is_socket = found->link && agent_link_is_socket(found->link);
    *ret_how = found->here ? AGENTS_DIRECTORY : is_socket ? AGENTS_FILES : AGENTS_BYTES;
    return strdup(helper_container(found->helper));
}

/* ---- life ------------------------------------------------------------------------------- */

bool agents_may_work(struct agents *agents, struct fail *why)
{
    scoped_lock(&agents->lock);
    if (agents->cannot_work && why)
        *why = agents->reason;
    return !agents->cannot_work;
}

void agents_reconsider(struct agents *agents)
{
    scoped_lock(&agents->lock);
    agents->cannot_work = agents->ever_worked = false;
    free(take(agents->doubted));
    starter_reconsider(agents->starter);
}

static void agents_free(struct agents *agents)
{
    starter_free(agents->starter);
    free(agents->doubted);
    (void)pthread_cond_destroy(&agents->changed);
    (void)pthread_mutex_destroy(&agents->lock);
    free(agents);
}

int agents_start(struct helpers *helpers, struct log *log, bool with_socket,
                 struct agents **ret_agents, struct fail *why)
{
    struct agents *agents = calloc(1, sizeof(*agents));
    if (!agents)
        return fail_errno(why, ENOMEM, "agents");
    agents->log = log;
    (void)pthread_mutex_init(&agents->lock, NULL);
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&agents->changed, &attr);
    (void)pthread_condattr_destroy(&attr);
    agents->starter = starter_new(helpers, with_socket);
    int r = agents->starter ? pthread_create(&agents->reaper, NULL, reaper_main, agents) : ENOMEM;
    if (r != 0) {
        agents_free(agents);
        return fail_errno(why, r, "agents");
    }
    *ret_agents = agents;
    return 0;
}

void agents_stop(struct agents *agents)
{
    if (!agents)
        return;
    {
        scoped_lock(&agents->lock);
        agents->stopping = true;
        (void)pthread_cond_broadcast(&agents->changed);
    }
    (void)pthread_join(agents->reaper, NULL);
    agents_free(agents);
}
