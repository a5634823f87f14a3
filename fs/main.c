/* SPDX-License-Identifier: MIT */
/*
 * Start-up and shutdown.  The process that was called waits for the one that
 * stays: it ends when the tree is usable, or with the reason why it is not.
 */
#include "fs/mount.h"
#include "fs/tree.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define PROGRAM "mount.dvolfs"
/* mount(8), "EXIT STATUS" */
#define EXIT_USAGE 1
#define EXIT_MOUNT_FAILED 32
/* Each waiting request has a thread; each archive in the making another. */
#define MAX_WAITING 512
#define MAX_MAKING 64

/* All parts, in the order they are made. */
struct parts {
    struct log *log;
    struct spool *spool;
    struct volumes *volumes;
    struct workers *makers;
    struct workers *waiters;
    struct jobs *jobs;
    struct moments *moments;
    struct kept *kept;
    struct tree tree;
    struct front front;
    struct mount *mount;
};

static int make_parts(const struct config *config, struct parts *parts, struct fail *why)
{
    int r = spool_open(config->spool, &parts->spool, why);
    if (r < 0)
        return fail_prefix(why, r, "spool");
    r = volumes_open(&config->volumes, parts->log, &parts->volumes, why);
    if (r < 0)
        return r;
    parts->makers = workers_new(MAX_MAKING);
    parts->waiters = workers_new(MAX_WAITING);
    parts->front.stop = cancel_new();
    parts->front.open_files = open_files_new();
    parts->front.prefills = prefills_new();
    parts->tree.inboxes = inboxes_new();
    parts->tree.openings = openings_new();
    parts->jobs = jobs_new();
    if (!parts->makers || !parts->waiters || !parts->front.stop || !parts->front.open_files ||
        !parts->front.prefills || !parts->tree.inboxes || !parts->tree.openings || !parts->jobs)
        return fail_errno(why, ENOMEM, "starting");
    r = kept_start(&(struct kept_conf){.volumes = parts->volumes,
                                       .spool = parts->spool,
                                       .log = parts->log,
                                       .jobs = parts->jobs,
                                       .store = config->store,
                                       .level = config->level},
                   &parts->kept, why);
    if (r < 0)
        return r;
    return moments_start(&(struct moments_conf){.volumes = parts->volumes,
                                                .spool = parts->spool,
                                                .workers = parts->makers,
                                                .log = parts->log,
                                                .jobs = parts->jobs,
                                                .level = config->level,
                                                .cache_seconds = config->cache_seconds},
                         &parts->moments, why);
}

static int make_tree(const struct config *config, struct parts *parts, struct fail *why)
{
    struct tree *tree = &parts->tree;
    tree->volumes = parts->volumes;
    tree->moments = parts->moments;
    tree->spool = parts->spool;
    tree->kept = parts->kept;
    tree->jobs = parts->jobs;
    tree->log = parts->log;
    tree->cache_seconds = config->cache_seconds;
    tree->options = buf_string(&config->shown);
    (void)clock_gettime(CLOCK_REALTIME, &tree->mounted_at);
    struct node *root = node_root_new(tree);
    parts->front.inodes = root ? inode_table_new(root) : NULL;
    parts->front.workers = parts->waiters;
    parts->front.spool = parts->spool;
    parts->front.others_may_enter = config->others_may_enter;
    parts->front.kernel_checks = option_kernel_checks(config);
    return parts->front.inodes ? 0 : fail_errno(why, ENOMEM, "starting");
}

/* What waits gives up, then everything goes in the reverse order. */
static void unmake(struct parts *parts)
{
    if (parts->front.stop)
        cancel_raise(parts->front.stop);
    workers_free(parts->waiters);
    mount_close(parts->mount);
    open_files_free(parts->front.open_files);
    inode_table_free(parts->front.inodes);
    prefills_free(parts->front.prefills);
    inboxes_free(parts->tree.inboxes);
    openings_free(parts->tree.openings);
    moments_stop(parts->moments);
    kept_stop(parts->kept);
    jobs_free(parts->jobs);
    workers_free(parts->makers);
    cancel_unref(parts->front.stop);
    volumes_close(parts->volumes);
    spool_close(parts->spool);
    log_free(parts->log);
}

/* As many open files as we may: each moment that is read is one. */
static void raise_limits(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int start(const struct config *config, struct parts *parts, struct fail *why)
{
    cleanup_free char *path = NULL;
    raise_limits();
    parts->log = log_new(config->debug);
    if (!parts->log)
        return fail_errno(why, ENOMEM, "starting");
    int r = mount_prepare(config->mountpoint, &path, why);
    if (r == 0)
        r = make_parts(config, parts, why);
    if (r == 0)
        r = make_tree(config, parts, why);
    if (r == 0)
        r = mount_open(config, path, &parts->front, &parts->mount, why);
    if (r == 0)
        log_event(parts->log, PROGRAM " " DVOLFS_VERSION " mounted %s at %s", config->spec, path);
    return r;
}

static int complain(const struct fail *why, int r)
{
    (void)fprintf(stderr, PROGRAM ": %s\n", fail_text(why, r));
    return r;
}

/* Nothing of the caller's terminal or directory is held any longer. */
static void leave_caller(void)
{
    (void)!chdir("/");
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd <= 2 && null >= 0; fd++)
        (void)dup2(null, fd);
    if (null > 2)
        (void)close(null);
}

/* The process that stays.  ready_fd (-1 in the foreground): told once when the
 * tree is usable. */
static int stay(const struct config *config, int ready_fd)
{
    struct parts parts = {0};
    struct fail why = FAIL_INIT;
    int r = start(config, &parts, &why);
    if (r < 0)
        (void)complain(&why, r);
    if (r == 0 && ready_fd >= 0) {
        leave_caller();
        (void)!write(ready_fd, "", 1);
        (void)close(ready_fd);
    }
    if (r == 0)
        mount_serve(parts.mount);
    unmake(&parts);
    return r < 0 ? EXIT_MOUNT_FAILED : EXIT_SUCCESS;
}

static int stay_in_background(const struct config *config)
{
    int ready[2];
    if (pipe2(ready, O_CLOEXEC) < 0) {
        (void)fprintf(stderr, PROGRAM ": pipe: %s\n", strerror(errno));
        return EXIT_MOUNT_FAILED;
    }
    pid_t pid = fork();
    if (pid < 0) {
        (void)fprintf(stderr, PROGRAM ": fork: %s\n", strerror(errno));
        return EXIT_MOUNT_FAILED;
    }
    if (pid == 0) {
        (void)close(ready[0]);
        (void)setsid();
        return stay(config, ready[1]);
    }
    (void)close(ready[1]);
    char byte;
    bool usable = read(ready[0], &byte, 1) == 1;
    (void)close(ready[0]);
    if (usable)
        return EXIT_SUCCESS;
    int status;
    (void)waitpid(pid, &status, 0);
    return EXIT_MOUNT_FAILED;
}

static int print_help(void)
{
    struct buf text cleanup_buf;
    buf_init(&text, 65536);
    if (option_help(&text) < 0)
        return EXIT_USAGE;
    (void)fputs(buf_string(&text), stdout);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    /* Names in archives are converted through the locale's character set
     * (libarchive); nothing else depends on the locale. */
    if (!setlocale(LC_CTYPE, "C.UTF-8") && !setlocale(LC_CTYPE, "C.utf8"))
        (void)fprintf(stderr, PROGRAM ": no locale C.UTF-8: names in archives may not be read\n");
    struct config config;
    struct fail why = FAIL_INIT;
    int status;
    int verdict = option_parse(argc, argv, &config, &why);
    if (verdict == OPTION_HELP) {
        status = print_help();
    } else if (verdict == OPTION_VERSION) {
        (void)puts(PROGRAM " " DVOLFS_VERSION);
        status = EXIT_SUCCESS;
    } else if (verdict < 0) {
        (void)complain(&why, verdict);
        status = EXIT_USAGE;
    } else if (curl_global_init(CURL_GLOBAL_DEFAULT) != 0) {
        (void)fprintf(stderr, PROGRAM ": libcurl cannot be started\n");
        status = EXIT_MOUNT_FAILED;
    } else {
        status = config.foreground ? stay(&config, -1) : stay_in_background(&config);
        curl_global_cleanup();
    }
    config_done(&config);
    return status;
}
