/* SPDX-License-Identifier: MIT */
#include "fs/option.h"

#include <getopt.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define OPTIONS_MAX_BYTES 65536
#define DEFAULT_SPEC "docker"
#define ROOT_STORE "/var/lib/dvolfs"
#define CACHE_MAX_SECONDS 3600

/* One option of -o. */
struct option_row {
    const char *name;
    int (*set)(struct config *config, const struct option_row *row, const char *value,
               struct fail *why);
    size_t member;      /* of struct config, where `set` needs it */
    const char *values; /* shown after '='; NULL: it takes none */
    const char *help;   /* NULL: not shown */
};

/* ---- kinds of options ------------------------------------------------------------- */

static int set_string(struct config *config, const struct option_row *row, const char *value,
                      struct fail *why)
{
    char **member = (char **)((char *)config + row->member);
    char *copy = strdup(value);
    if (!copy)
        return fail_errno(why, ENOMEM, "%s", row->name);
    free(*member);
    *member = copy;
    return 0;
}

static int set_dir(struct config *config, const struct option_row *row, const char *value,
                   struct fail *why)
{
    if (value[0] != '/')
        return fail_set(why, EINVAL, "%s=%s: the path must start with /", row->name, value);
    return set_string(config, row, value, why);
}

static int set_seconds(struct config *config, const struct option_row *row, const char *value,
                       struct fail *why)
{
    char *end;
    double seconds = strtod(value, &end);
    if (end == value || *end || !(seconds >= 0 && seconds <= CACHE_MAX_SECONDS))
        return fail_set(why, EINVAL, "%s=%s: seconds from 0 to %d are wanted", row->name, value,
                        CACHE_MAX_SECONDS);
    *(double *)((char *)config + row->member) = seconds;
    return 0;
}

/* As zstd(1), without --ultra. */
#define LEVEL_DEFAULT 3
#define LEVEL_MAX 19

static int set_level(struct config *config, const struct option_row *row, const char *value,
                     struct fail *why)
{
    char *end;
    long level = strtol(value, &end, 10);
    if (end == value || *end || level < 1 || level > LEVEL_MAX)
        return fail_set(why, EINVAL, "%s=%s: a number from 1 to %d is wanted", row->name, value,
                        LEVEL_MAX);
    config->level = (int)level;
    return 0;
}

static const struct {
    const char *name;
    enum volumes_access access;
} ways[] = {
    {"auto", VOLUMES_ACCESS_AUTO},   {"local", VOLUMES_ACCESS_LOCAL},
    {"agent", VOLUMES_ACCESS_AGENT}, {"agent-stream", VOLUMES_ACCESS_AGENT_STREAM},
    {"api", VOLUMES_ACCESS_API},
};

static const char *name_of_way(enum volumes_access access)
{
    size_t i = 0;
    while (ways[i].access != access)
        i++;
    return ways[i].name;
}

static int set_access(struct config *config, const struct option_row *row, const char *value,
                      struct fail *why)
{
    for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
        if (strcmp(value, ways[i].name) == 0) {
            config->volumes.access = ways[i].access;
            return 0;
        }
    }
    return fail_set(why, EINVAL, "%s=%s: one of %s is wanted", row->name, value, row->values);
}

/* For the kernel, or for libfuse: mount.fuse3(8), mount(8). */
static int pass_on(struct config *config, const struct option_row *row, const char *value,
                   struct fail *why)
{
    (void)value;
    if (buf_printf(&config->fuse_options, ",%s", row->name) < 0)
        return fail_errno(why, ENOMEM, "%s", row->name);
    return 0;
}

static int let_others_in(struct config *config, const struct option_row *row, const char *value,
                         struct fail *why)
{
    config->others_may_enter = true;
    return pass_on(config, row, value, why);
}

static int ignore(struct config *config, const struct option_row *row, const char *value,
                  struct fail *why)
{
    (void)config, (void)row, (void)value, (void)why;
    return 0;
}

static const struct option_row rows[] = {
    {"store", set_dir, offsetof(struct config, store), "DIR",
     "where dvolfs keeps its files (root: " ROOT_STORE "; else $XDG_DATA_HOME/dvolfs)"},
    {"spool", set_dir, offsetof(struct config, spool), "DIR",
     "where transient copies go (the store's .spool)"},
    {"access", set_access, 0, "auto|local|agent|agent-stream|api",
     "how volume contents are reached (auto)"},
    {"level", set_level, 0, "N", "level of zstd, 1 to 19 (3)"},
    {"cache", set_seconds, offsetof(struct config, cache_seconds), "SECONDS",
     "how long what was just asked may be trusted (1)"},
    {"ro", pass_on, 0, NULL, "nothing is restored or kept"},
    {"rw", pass_on, 0, NULL, NULL},
    {"allow_other", let_others_in, 0, NULL, "let other users in (mount.fuse3(8))"},
    {"allow_root", let_others_in, 0, NULL, NULL},
    {"auto_unmount", pass_on, 0, NULL, NULL},
    {"dev", pass_on, 0, NULL, NULL},
    {"nodev", pass_on, 0, NULL, NULL},
    {"suid", pass_on, 0, NULL, NULL},
    {"nosuid", pass_on, 0, NULL, NULL},
    {"exec", pass_on, 0, NULL, NULL},
    {"noexec", pass_on, 0, NULL, NULL},
    {"atime", pass_on, 0, NULL, NULL},
    {"noatime", pass_on, 0, NULL, NULL},
    {"diratime", ignore, 0, NULL, NULL},
    {"nodiratime", ignore, 0, NULL, NULL},
    {"relatime", ignore, 0, NULL, NULL},
    {"norelatime", ignore, 0, NULL, NULL},
    {"sync", ignore, 0, NULL, NULL},
    {"async", ignore, 0, NULL, NULL},
    {"dirsync", ignore, 0, NULL, NULL},
    {"default_permissions", ignore, 0, NULL, NULL}, /* always on */
    {"defaults", ignore, 0, NULL, NULL},
    {"auto", ignore, 0, NULL, NULL},
    {"noauto", ignore, 0, NULL, NULL},
    {"user", ignore, 0, NULL, NULL},
    {"users", ignore, 0, NULL, NULL},
    {"nouser", ignore, 0, NULL, NULL},
    {"owner", ignore, 0, NULL, NULL},
    {"group", ignore, 0, NULL, NULL},
    {"nofail", ignore, 0, NULL, NULL},
    {"_netdev", ignore, 0, NULL, NULL},
};
#define ROW_COUNT (sizeof(rows) / sizeof(*rows))

/* ---- -o --------------------------------------------------------------------------- */

/* Options that are for mount(8), systemd or people, whatever their value. */
static bool is_for_others(const char *name)
{
    return strncmp(name, "x-", 2) == 0 || strncmp(name, "X-", 2) == 0 ||
           strncmp(name, "comment=", 8) == 0 || strncmp(name, "user=", 5) == 0;
}

static const struct option_row *find_row(const char *name)
{
    for (size_t i = 0; i < ROW_COUNT; i++)
        if (strcmp(rows[i].name, name) == 0)
            return &rows[i];
    return NULL;
}

static int parse_option(struct config *config, char *option, struct fail *why)
{
    if (!option[0] || is_for_others(option))
        return 0;
    char *value = strchr(option, '=');
    if (value)
        *value++ = '\0';
    const struct option_row *row = find_row(option);
    if (!row)
        return fail_set(why, EINVAL, "unknown option %s: see mount.dvolfs -h", option);
    if (row->values && (!value || !value[0]))
        return fail_set(why, EINVAL, "option %s wants a value: %s=%s", option, option, row->values);
    if (!row->values && value)
        return fail_set(why, EINVAL, "option %s takes no value", option);
    return row->set(config, row, value, why);
}

/* A comma in a value is written "\,", as for mount.fuse3(8). */
static int parse_options(struct config *config, const char *list, struct fail *why)
{
    cleanup_free char *option = malloc(strlen(list) + 1);
    if (!option)
        return fail_errno(why, ENOMEM, "-o");
    size_t len = 0;
    for (const char *at = list;; at++) {
        if (*at && *at != ',') {
            if (*at == '\\' && (at[1] == ',' || at[1] == '\\'))
                at++;
            option[len++] = *at;
            continue;
        }
        option[len] = '\0';
        int r = parse_option(config, option, why);
        if (r < 0 || !*at)
            return r;
        len = 0;
    }
}

/* ---- the command line --------------------------------------------------------------- */

static int parse_flag(struct config *config, int flag, struct fail *why)
{
    switch (flag) {
    case 'o':
        return parse_options(config, optarg, why);
    case 'f':
        config->foreground = true;
        return OPTION_RUN;
    case 'd':
        config->foreground = config->debug = true;
        return OPTION_RUN;
    case 'h':
        return OPTION_HELP;
    case 'V':
        return OPTION_VERSION;
    case 's': /* of mount(8): tolerate unknown options; no mtab; verbose; */
    case 'n': /* a namespace, which mount(8) has entered; the type */
    case 'v':
    case 'N':
    case 't':
        return OPTION_RUN;
    default:
        return fail_set(why, EINVAL, "bad option: see mount.dvolfs -h");
    }
}

static int set_positions(struct config *config, int count, char **words, struct fail *why)
{
    if (count < 1)
        return fail_set(why, EINVAL, "no mountpoint: mount.dvolfs [SPEC] MOUNTPOINT");
    if (count > 2)
        return fail_set(why, EINVAL, "%s: one word too many", words[2]);
    config->spec = strdup(count == 2 ? words[0] : DEFAULT_SPEC);
    config->mountpoint = strdup(words[count - 1]);
    if (!config->spec || !config->mountpoint)
        return fail_errno(why, ENOMEM, "%s", words[0]);
    config->volumes.spec = config->spec;
    return 0;
}

/* Sets *member, where it is NULL, to the joined strings. */
static int set_default(char **member, const char *first, const char *second, struct fail *why)
{
    if (!*member && asprintf(member, "%s%s", first, second) < 0) {
        *member = NULL;
        return fail_errno(why, ENOMEM, "options");
    }
    return 0;
}

/* https://specifications.freedesktop.org/basedir-spec/ */
static int set_default_store(struct config *config, struct fail *why)
{
    const char *data = getenv("XDG_DATA_HOME");
    const char *home = getenv("HOME");
    if (geteuid() == 0)
        return set_default(&config->store, ROOT_STORE, "", why);
    if (data && data[0] == '/')
        return set_default(&config->store, data, "/dvolfs", why);
    if (home && home[0] == '/')
        return set_default(&config->store, home, "/.local/share/dvolfs", why);
    return config->store ? 0
                         : fail_set(why, EINVAL, "no place for files: set HOME or -o store=DIR");
}

static int show(struct config *config, struct fail *why)
{
    int r = buf_printf(&config->shown, "store=%s,spool=%s,access=%s,level=%d,cache=%g",
                       config->store, config->spool, name_of_way(config->volumes.access),
                       config->level, config->cache_seconds);
    return r < 0 ? fail_errno(why, -r, "options") : 0;
}

int option_parse(int argc, char **argv, struct config *ret_config, struct fail *why)
{
    struct config *config = ret_config;
    *config = (struct config){.cache_seconds = 1, .level = LEVEL_DEFAULT};
    buf_init(&config->fuse_options, OPTIONS_MAX_BYTES);
    buf_init(&config->shown, OPTIONS_MAX_BYTES);
    optind = 0; /* glibc: begin anew, whatever was parsed before (getopt(3), NOTES) */
    opterr = 0;
    static const struct option long_flags[] = {
        {"help", no_argument, NULL, 'h'}, {"version", no_argument, NULL, 'V'}, {0}};
    int flag;
    while ((flag = getopt_long(argc, argv, "o:fdhVsnvN:t:", long_flags, NULL)) != -1) {
        int r = parse_flag(config, flag, why);
        if (r != OPTION_RUN)
            return r;
    }
    int r = set_positions(config, argc - optind, argv + optind, why);
    if (r == 0)
        r = set_default_store(config, why);
    if (r == 0)
        r = set_default(&config->spool, config->store, "/.spool", why);
    if (r == 0)
        r = show(config, why);
    return r < 0 ? r : OPTION_RUN;
}

void config_done(struct config *config)
{
    free(config->spec);
    free(config->mountpoint);
    free(config->store);
    free(config->spool);
    buf_done(&config->fuse_options);
    buf_done(&config->shown);
}

int option_help(struct buf *out)
{
    int r =
        buf_add_string(out, "mount.dvolfs [SPEC] MOUNTPOINT [-o OPTION,...] [-f] [-d] [-h] [-V]\n"
                            "Shows the volumes of a Docker engine as files.\n\n"
                            "SPEC: docker (as the docker command would reach it) or unix:///path\n"
                            "-f    stay in front       -d    the same, with the log on stderr\n"
                            "-h    this help           -V    version\n\n"
                            "Options:\n");
    for (size_t i = 0; i < ROW_COUNT && r == 0; i++) {
        const struct option_row *row = &rows[i];
        if (!row->help)
            continue;
        char name[64];
        (void)snprintf(name, sizeof(name), "%s%s%s", row->name, row->values ? "=" : "",
                       row->values ? row->values : "");
        r = buf_printf(out, "  %-18s %s\n", name, row->help);
    }
    return r < 0 ? r : buf_add_string(out, "\nEverything else: man mount.dvolfs\n");
}

bool option_kernel_checks(const struct config *config)
{
    return config->others_may_enter || geteuid() == 0;
}
