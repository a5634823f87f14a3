/* SPDX-License-Identifier: MIT */
/*
 * Helper containers: how a volume's contents are reached through the engine.
 *
 * For archive calls: the engine serves archives of containers, not of volumes,
 * and locks the container while it does; so each piece of work gets a container
 * of its own that has the volume mounted, is created and never started, and
 * goes when the work is done.  For an agent: one that is started, and runs it.
 *
 * All are made from an image that is made on the spot and holds the agent alone:
 * nothing is pulled.  A label says what they are; those of a dvolfs that died
 * are removed by the next one.
 *
 * Any thread may call.
 */
#ifndef DVOLFS_VOLUME_HELPER_H
#define DVOLFS_VOLUME_HELPER_H

#include "base/cancel.h"
#include "base/fail.h"
#include "base/log.h"

#include <stdbool.h>

/* On every helper; its value names the process it belongs to. */
#define HELPER_LABEL "dvolfs.helper"
#define HELPER_IMAGE "dvolfs-helper"
/* Where the volume is in it, as a path and as an archive's prefix. */
#define HELPER_MOUNT "/volume"
#define HELPER_PREFIX "volume/"
/* The agent, and the socket it gets, in one that is started. */
#define HELPER_PROGRAM "/dvolfs-agent"
#define HELPER_SOCKET "/agent.sock"
/* At once; further ones wait for their turn. */
#define HELPER_MAX 16

struct engine;
struct helpers;
struct helper;

/* Starts a thread that removes helpers.  engine and log must outlive it. */
must_check int helpers_start(struct engine *engine, struct log *log, struct helpers **ret_helpers,
                             struct fail *why);

/*
 * Removes what is left and ends the thread: at once, or after at most ten seconds
 * where the engine does not answer.  No helper may be open.  NULL is allowed.
 */
void helpers_stop(struct helpers *helpers);

/*
 * Removes helpers left behind by dead processes: how many, or why not.  Blocks
 * on the engine.  (An image left behind goes by itself, seconds after the start.)
 */
must_check int helpers_sweep(struct helpers *helpers, struct fail *why);

struct helper_conf {
    const char *volume;
    bool writable;
    /* One that will be started, to run the agent with this nonce.  It can read
     * the volume, and nothing else: no network, no capabilities beyond that,
     * nothing to write to.  NULL: never started. */
    const char *nonce;
    /* A unix socket of this machine that it gets (whose path the engine must see
     * too); NULL: none. */
    const char *socket;
};

/*
 * A helper for the volume, created and not started.  -ENOENT: there is no such
 * volume (and none was made); -EINTR: cancelled while waiting for a turn; errors
 * of the engine.
 */
must_check int helper_open(struct helpers *helpers, const struct helper_conf *conf,
                           struct cancel *cancel, struct helper **ret_helper, struct fail *why);

/*
 * Gives the helper up.  Waits a moment for its removal, so that `docker volume
 * rm` right after a copy succeeds; where the engine is slow, the removal goes
 * on behind the caller's back.  NULL is allowed.
 */
void helper_close(struct helper *helper);
DEFINE_CLEANUP(cleanup_helper_impl, struct helper, helper_close)
#define cleanup_helper cleanup(cleanup_helper_impl)

/* The same without waiting at all. */
void helper_drop(struct helper *helper);
DEFINE_CLEANUP(cleanup_helper_drop_impl, struct helper, helper_drop)
#define cleanup_helper_drop cleanup(cleanup_helper_drop_impl)

/* The engine, and the container to name in calls to it.  Live as long as the helper. */
struct engine *helper_engine(const struct helper *helper);
const char *helper_container(const struct helper *helper);

#endif
