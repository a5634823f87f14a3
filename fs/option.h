/* SPDX-License-Identifier: MIT */
/*
 * The command line, as mount.dvolfs(8) describes it: one table of options makes
 * the parser and the help.
 */
#ifndef DVOLFS_FS_OPTION_H
#define DVOLFS_FS_OPTION_H

#include "base/buf.h"
#include "base/fail.h"
#include "volume/volumes.h"

#include <stdbool.h>

/* What was asked for, and what follows from it.  Strings are malloc'ed. */
struct config {
    char *spec;       /* as given, else "docker" */
    char *mountpoint; /* as given */
    char *store;
    char *spool;
    struct volumes_conf volumes; /* spec points to the above */
    double cache_seconds;
    int level;               /* of zstd */
    struct buf fuse_options; /* those for the kernel and libfuse, comma separated */
    struct buf shown;        /* ours, as they are in force, for status.json */
    bool others_may_enter;   /* allow_other is among them */
    bool foreground;
    bool debug; /* foreground, with the log on stderr */
};

enum option_verdict {
    OPTION_RUN,
    OPTION_HELP,    /* -h: print it */
    OPTION_VERSION, /* -V */
};

/*
 * Parses a command line and fills in the defaults.  The verdict, or -EINVAL
 * (-ENOMEM) with why.  *ret_config is to be freed with config_done in any case.
 */
must_check int option_parse(int argc, char **argv, struct config *ret_config, struct fail *why);
void config_done(struct config *config);

/* Whether the kernel holds accesses to the modes that are shown.  Not where an
 * ordinary user is alone in the mount: he sees all of the volumes in data/. */
bool option_kernel_checks(const struct config *config);

/* The text that -h prints; in a buffer of the caller's. */
must_check int option_help(struct buf *out);

#endif
