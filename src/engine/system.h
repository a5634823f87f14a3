/* SPDX-License-Identifier: MIT */
/* About the engine itself: /info.  Errors as engine/engine.h says. */
#ifndef DVOLFS_ENGINE_SYSTEM_H
#define DVOLFS_ENGINE_SYSTEM_H

#include "engine/engine.h"

struct engine_info {
    char *server_version;
    char *kernel;   /* as uname -r on the engine's machine */
    char *hostname; /* of the engine's machine */
    char *root_dir; /* the engine's data directory, there */
};

/* The caller calls engine_info_done. */
must_check int engine_info(struct engine *engine, struct cancel *cancel,
                           struct engine_info *ret_info, struct fail *why);
void engine_info_done(struct engine_info *info);

#endif
