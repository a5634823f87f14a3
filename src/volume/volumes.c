/* SPDX-License-Identifier: MIT */
#include "volume/volumes.h"

#include "engine/containers.h"
#include "engine/json.h"
#include "engine/system.h"
#include "volume/agent.h"
#include "volume/api.h"
#include "volume/helper.h"
#include "volume/local.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>

#define DEFAULT_SOCKET "unix:///var/run/docker.sock"

struct volumes {
    struct engine *engine;
    struct log *log;
    struct helpers *helpers;
    struct agents *agents;
    struct catalogue *catalogue;
    pthread_mutex_t lock;      /* of the next two */
    struct local *local;       /* NULL: not */
    struct fail local_missing; /* why */
    atomic_uint generation;
    enum volumes_access access;
    char *server_version;
};

/* ---- life ----------------------------------------------------------------- */

int volumes_endpoint(const char *spec, char **ret_endpoint, struct fail *why)
{
    const char *endpoint = spec;
    if (strcmp(spec, "docker") == 0 || strcmp(spec, "default") == 0) {
        const char *host = getenv("DOCKER_HOST");
        endpoint = host && host[0] ? host : DEFAULT_SOCKET;
    }
    if (strncmp(endpoint, "unix:///", 8) != 0)
        return fail_set(why, EINVAL,
                        "%s: not an engine that can be reached; use docker or unix:///path",
                        endpoint);
    char *copy = strdup(endpoint);
    if (!copy)
        return fail_errno(why, ENOMEM, "%s", spec);
    *ret_endpoint = copy;
    return 0;
}

DEFINE_CLEANUP(cleanup_volumes_impl, struct volumes, volumes_close)

static int read_server_version(struct volumes *volumes, struct fail *why)
{
    struct engine_info info;
    int r = engine_info(volumes->engine, NULL, &info, why);
    if (r < 0)
        return r;
    volumes->server_version = take(info.server_version);
    engine_info_done(&info);
    return 0;
}

static void sweep(struct volumes *volumes)
{
    struct fail why = FAIL_INIT;
    int r = helpers_sweep(volumes->helpers, &why);
    if (r >= 0) {
        int probes = local_sweep(volumes->engine, &why);
        r = probes < 0 ? probes : r + probes;
    }
    if (r < 0)
        log_event(volumes->log, "looking for what was left behind: %s", fail_text(&why, r));
    else if (r > 0)
        log_event(volumes->log, "removed %d helpers left behind", r);
}

/* Whether volumes can be read where they are is found out here, and not when
 * somebody asks for the first file: it takes a moment. */
static int find_local(struct volumes *volumes)
{
    struct local *local = NULL;
    struct fail missing = FAIL_INIT;
    bool is_wanted =
        volumes->access == VOLUMES_ACCESS_AUTO || volumes->access == VOLUMES_ACCESS_LOCAL;
    int r = is_wanted ? local_open(volumes->engine, &local, &missing)
                      : fail_set(&missing, ENOTSUP, "another access is asked for");
    struct local *old;
    {
        scoped_lock(&volumes->lock);
        old = volumes->local;
        volumes->local = local;
        volumes->local_missing = missing;
    }
    local_unref(old);
    return r;
}

/* The engine is back: perhaps in other places, or another one. */
static void reconsider(void *data)
{
    struct volumes *volumes = data;
    agents_reconsider(volumes->agents);
    (void)find_local(volumes); /* why not is told in volume.json */
    atomic_fetch_add(&volumes->generation, 1);
}

/* A reference, or NULL with why. */
static struct local *get_local(struct volumes *volumes, struct fail *why)
{
    scoped_lock(&volumes->lock);
    if (volumes->local)
        return local_ref(volumes->local);
    if (why)
        *why = volumes->local_missing;
    return NULL;
}

int volumes_open(const struct volumes_conf *conf, struct log *log, struct volumes **ret_volumes,
                 struct fail *why)
{
    struct volumes *volumes cleanup(cleanup_volumes_impl) = calloc(1, sizeof(*volumes));
    if (!volumes)
        return fail_errno(why, ENOMEM, "%s", conf->spec);
    (void)pthread_mutex_init(&volumes->lock, NULL);
    volumes->log = log;
    volumes->access = conf->access;
    cleanup_free char *endpoint = NULL;
    int r = volumes_endpoint(conf->spec, &endpoint, why);
    if (r == 0)
        r = engine_open(endpoint, &volumes->engine, why);
    if (r == 0)
        r = engine_negotiate(volumes->engine, NULL, why);
    if (r == 0)
        r = read_server_version(volumes, why);
    if (r == 0)
        r = helpers_start(volumes->engine, log, &volumes->helpers, why);
    if (r == 0)
        r = agents_start(volumes->helpers, log, conf->access != VOLUMES_ACCESS_AGENT_STREAM,
                         &volumes->agents, why);
    if (r < 0)
        return r;
    sweep(volumes);
    r = find_local(volumes);
    if (r < 0 && conf->access == VOLUMES_ACCESS_LOCAL) {
        (void)get_local(volumes, why);
        return fail_prefix(why, r, "access=local");
    }
    r = catalogue_start(&(struct catalogue_conf){.engine = volumes->engine,
                                                 .log = log,
                                                 .ignore_label = HELPER_LABEL,
                                                 .back = reconsider,
                                                 .data = volumes},
                        &volumes->catalogue, why);
    if (r < 0)
        return r;
    *ret_volumes = take(volumes);
    return 0;
}

void volumes_close(struct volumes *volumes)
{
    if (!volumes)
        return;
    catalogue_stop(volumes->catalogue);
    agents_stop(volumes->agents);
    helpers_stop(volumes->helpers);
    local_unref(volumes->local);
    (void)pthread_mutex_destroy(&volumes->lock);
    engine_close(volumes->engine);
    free(volumes->server_version);
    free(volumes);
}

struct view *volumes_view(struct volumes *volumes)
{
    return catalogue_view(volumes->catalogue);
}

/* ---- for people -------------------------------------------------------------- */

/* Where local access is none; false with why. */
static bool may_use_agent(struct volumes *volumes, struct fail *why)
{
    if (volumes->access == VOLUMES_ACCESS_LOCAL || volumes->access == VOLUMES_ACCESS_API) {
        (void)fail_set(why, ENOTSUP, "another access is asked for");
        return false;
    }
    return agents_may_work(volumes->agents, why);
}

int volumes_status(struct volumes *volumes, cJSON *object)
{
    char api[16];
    engine_api_version(volumes->engine, api);
    struct view *view cleanup_view = volumes_view(volumes);
    int64_t lost_since = catalogue_lost_since(volumes->catalogue);
    struct fail missing = FAIL_INIT;
    struct local *local cleanup_local = get_local(volumes, &missing);
    struct fail no_agent = FAIL_INIT;
    bool agent = may_use_agent(volumes, &no_agent);
    cJSON *engine = cJSON_AddObjectToObject(object, "engine");
    bool ok = cJSON_AddStringToObject(engine, "endpoint", engine_endpoint(volumes->engine)) &&
              cJSON_AddStringToObject(engine, "version", volumes->server_version) &&
              cJSON_AddStringToObject(engine, "api", api) &&
              cJSON_AddStringToObject(engine, "state", lost_since ? "lost" : "connected") &&
              cJSON_AddNumberToObject(engine, "lost_since", (double)lost_since) &&
              cJSON_AddNumberToObject(object, "volumes", (double)view_count(view)) &&
              cJSON_AddStringToObject(object, "local", local ? "yes" : missing.text) &&
              cJSON_AddStringToObject(object, "agent", agent ? "yes" : no_agent.text);
    return ok ? 0 : -ENOMEM;
}

static int add_user(void *data, const struct view_user *user)
{
    cJSON *object = cJSON_CreateObject();
    if (!cJSON_AddStringToObject(object, "Id", user->id) ||
        !cJSON_AddStringToObject(object, "Name", user->name) ||
        !cJSON_AddStringToObject(object, "State", user->state) ||
        !cJSON_AddStringToObject(object, "Destination", user->destination) ||
        !cJSON_AddBoolToObject(object, "RW", user->writable) ||
        !cJSON_AddItemToArray(data, object)) {
        cJSON_Delete(object);
        return -ENOMEM;
    }
    return 0;
}

/* Whether the volume is a plain directory of the engine's: others may be mounted
 * from anywhere, when they are used. */
static bool is_plain_directory(const cJSON *object)
{
    const char *driver = json_string(object, "Driver");
    const cJSON *options = cJSON_GetObjectItemCaseSensitive(object, "Options");
    return driver && strcmp(driver, "local") == 0 && cJSON_GetArraySize(options) == 0;
}

static cJSON *parse_volume(const struct view_volume *volume)
{
    return volume ? json_parse(volume->json, strlen(volume->json)) : NULL;
}

/* A reference where the volume (as JSON) is read from its directory; NULL with why. */
static struct local *get_local_for(struct volumes *volumes, const cJSON *object, struct fail *why)
{
    struct local *local = get_local(volumes, why);
    if (!local || is_plain_directory(object))
        return local;
    local_unref(local);
    (void)fail_set(why, ENOTSUP, "the volume is not a plain directory of the engine's");
    return NULL;
}

/* What holds the volume at the moment, so that the engine will not remove it. */
static int add_helper(struct volumes *volumes, cJSON *ours, const char *name)
{
    static const char *const how_text[] = {
        [AGENTS_DIRECTORY] = "handed over the volume's directory",
        [AGENTS_FILES] = "reads the volume, and hands its files over",
        [AGENTS_BYTES] = "reads the volume, and sends the bytes",
    };
    enum agents_how how;
    cleanup_free char *id = agents_helper(volumes->agents, name, &how);
    char text[128];
    if (!id)
        return 0;
    (void)snprintf(text, sizeof(text), "container %.12s %s; it goes seconds after it was needed",
                   id, how_text[how]);
    return cJSON_AddStringToObject(ours, "helper", text) ? 0 : -ENOMEM;
}

/* How it is reached, and why not by a better way. */
static int add_way(struct volumes *volumes, const char *name, cJSON *object)
{
    cJSON *ours = cJSON_AddObjectToObject(object, "dvolfs");
    struct fail not_local = FAIL_INIT, not_agent = FAIL_INIT;
    struct local *local cleanup_local = get_local_for(volumes, object, &not_local);
    bool agent = !local && may_use_agent(volumes, &not_agent);
    bool ok = cJSON_AddStringToObject(ours, "access",
                                      local   ? "local"
                                      : agent ? "agent"
                                              : "api") &&
              (local || cJSON_AddStringToObject(ours, "not_local", not_local.text)) &&
              (local || agent || cJSON_AddStringToObject(ours, "not_agent", not_agent.text));
    return ok ? add_helper(volumes, ours, name) : -ENOMEM;
}

int volumes_describe(struct volumes *volumes, const struct view *view,
                     const struct view_volume *volume, struct buf *out)
{
    cJSON *object cleanup_json = parse_volume(volume);
    if (!cJSON_IsObject(object))
        return -EIO;
    cJSON *users = cJSON_AddArrayToObject(object, "Containers");
    int r = users ? add_way(volumes, volume->name, object) : -ENOMEM;
    if (r == 0)
        r = view_users(view, volume->name, add_user, users);
    if (r < 0)
        return r;
    char *text = cJSON_Print(object);
    r = text ? buf_printf(out, "%s\n", text) : -ENOMEM;
    cJSON_free(text);
    return r;
}

/* ---- contents ------------------------------------------------------------------ */

unsigned volumes_generation(const struct volumes *volumes)
{
    return atomic_load(&volumes->generation);
}

enum volumes_access volumes_way(struct volumes *volumes, const char *name)
{
    struct view *view cleanup_view = volumes_view(volumes);
    const struct view_volume *volume = view_find(view, name);
    if (!volume)
        return VOLUMES_ACCESS_API;
    cJSON *object cleanup_json = parse_volume(volume);
    struct local *local cleanup_local = get_local_for(volumes, object, NULL);
    if (local)
        return VOLUMES_ACCESS_LOCAL;
    return may_use_agent(volumes, NULL) ? VOLUMES_ACCESS_AGENT : VOLUMES_ACCESS_API;
}

int volumes_contents(struct volumes *volumes, const char *name, struct cancel *cancel,
                     struct contents **ret_contents, struct fail *why)
{
    struct view *view cleanup_view = volumes_view(volumes);
    const struct view_volume *volume = view_find(view, name);
    if (!volume)
        return fail_set(why, ENOENT, "there is no volume %s", name);
    cJSON *object cleanup_json = parse_volume(volume);
    const char *mountpoint = json_string(object, "Mountpoint");
    struct local *local cleanup_local = get_local_for(volumes, object, NULL);
    if (local && mountpoint)
        return local_contents(local, mountpoint, ret_contents, why);
    if (may_use_agent(volumes, NULL))
        return agents_contents(volumes->agents, name, cancel, ret_contents, why);
    return fail_set(why, ENOTSUP, "volume %s is reached by archive calls alone", name);
}

/* Archive calls are not to be fallen back upon where another way is demanded. */
static int check_may_use_api(struct volumes *volumes, const char *name, struct fail *why)
{
    struct fail reason = FAIL_INIT;
    if (volumes->access == VOLUMES_ACCESS_AUTO || volumes->access == VOLUMES_ACCESS_API)
        return 0;
    if (volumes->access == VOLUMES_ACCESS_LOCAL)
        return fail_set(why, ENOTSUP, "volume %s cannot be read by access=local", name);
    if (may_use_agent(volumes, &reason))
        return fail_set(why, ENOTSUP, "volume %s cannot be read by an agent (see the log)", name);
    return fail_set(why, ENOTSUP, "volume %s cannot be read by an agent: %s", name, reason.text);
}

int volumes_read(struct volumes *volumes, const char *name, int fd, struct cancel *cancel,
                 struct volumes_summary *ret_summary, struct fail *why)
{
    int r = check_may_use_api(volumes, name, why);
    if (r < 0)
        return r;
    struct api_summary summary;
    r = api_read(volumes->helpers, name, fd, cancel, &summary, why);
    if (r < 0)
        return r;
    *ret_summary = (struct volumes_summary){.bytes = summary.bytes,
                                            .members = summary.members,
                                            .newest_s = summary.newest_s,
                                            .newest_ns = summary.newest_ns,
                                            .may_be_cut = summary.may_be_cut};
    return 0;
}

struct lister {
    volumes_list_fn *fn;
    void *data;
    struct fail *why;
};

static int list_member(void *data, const struct tar_entry *entry, struct fail *why)
{
    struct lister *lister = data;
    return lister->fn(lister->data, entry->name, entry->mode, why);
}

static int list_file(void *data, const struct file *file)
{
    struct lister *lister = data;
    return lister->fn(lister->data, file->name, file->stat.mode, lister->why);
}

int volumes_list(struct volumes *volumes, const char *name, volumes_list_fn *fn, void *data,
                 struct cancel *cancel, struct fail *why)
{
    struct lister lister = {.fn = fn, .data = data, .why = why};
    struct contents *contents cleanup_contents = NULL;
    int r = volumes_contents(volumes, name, cancel, &contents, why);
    if (r == 0)
        return contents_walk(contents, cancel, list_file, &lister, why);
    if (r != -ENOTSUP)
        return r;
    return api_list(volumes->helpers, name, list_member, &lister, cancel, why);
}

int volumes_write(struct volumes *volumes, const char *name, int fd, volumes_sent_fn *sent,
                  void *data, struct cancel *cancel, bool *ret_begun, struct fail *why)
{
    return api_write(volumes->helpers, name, fd, sent, data, cancel, ret_begun, why);
}

/* ---- before a write --------------------------------------------------------------- */

static bool may_be_writing(const struct engine_container *container, const char *volume)
{
    static const char *const states[] = {"running", "paused", "restarting"};
    bool active = false;
    for (size_t i = 0; i < sizeof(states) / sizeof(*states); i++)
        active = active || strcmp(container->state, states[i]) == 0;
    if (!active)
        return false;
    for (size_t i = 0; i < container->mount_count; i++)
        if (container->mounts[i].writable && strcmp(container->mounts[i].volume, volume) == 0)
            return true;
    return false;
}

int volumes_check_unused(struct volumes *volumes, const char *name, struct cancel *cancel,
                         struct fail *why)
{
    struct engine_container_list list;
    int r = engine_container_list(volumes->engine, HELPER_LABEL, false, cancel, &list, why);
    if (r < 0)
        return r;
    for (size_t i = 0; i < list.count && r == 0; i++)
        if (may_be_writing(&list.items[i], name))
            r = fail_set(why, EBUSY, "volume %s is in use by container %s (%s): stop it first",
                         name, list.items[i].name, list.items[i].state);
    engine_container_list_done(&list);
    return r;
}

/* Whether the engine runs on this very machine, as far as it tells. */
static bool is_this_machine(const struct engine_info *info)
{
    struct utsname names;
    return uname(&names) == 0 && strcmp(info->kernel, names.release) == 0 &&
           strcmp(info->hostname, names.nodename) == 0;
}

/* The file system at the volume's own directory, or at the engine's where only
 * root may look further. */
static int stat_disk(struct volumes *volumes, const char *name, const char *root_dir,
                     struct statvfs *ret)
{
    struct view *view cleanup_view = volumes_view(volumes);
    const struct view_volume *volume = view_find(view, name);
    cJSON *object cleanup_json = parse_volume(volume);
    if (!is_plain_directory(object))
        return -ENOTSUP;
    const char *mountpoint = json_string(object, "Mountpoint");
    if (mountpoint && mountpoint[0] == '/' && statvfs(mountpoint, ret) == 0)
        return 0;
    return statvfs(root_dir, ret) == 0 ? 0 : -errno;
}

int volumes_room(struct volumes *volumes, const char *name, uint64_t *ret_bytes,
                 uint64_t *ret_inodes, struct cancel *cancel, struct fail *why)
{
    struct engine_info info;
    int r = engine_info(volumes->engine, cancel, &info, why);
    if (r < 0)
        return r;
    struct statvfs disk;
    r = is_this_machine(&info) ? stat_disk(volumes, name, info.root_dir, &disk) : -ENOTSUP;
    engine_info_done(&info);
    if (r < 0)
        return fail_set(why, ENOTSUP, "the engine's disk cannot be seen from here");
    *ret_bytes = (uint64_t)disk.f_bfree * disk.f_frsize;
    /* File systems without a fixed number of inodes say 0 of 0 (btrfs). */
    *ret_inodes = disk.f_files ? disk.f_ffree : UINT64_MAX;
    return 0;
}
