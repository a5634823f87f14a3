/* SPDX-License-Identifier: MIT */
/*
 * Volumes' directories on this machine, read where they are.
 *
 * Only where that is proved: a volume with a random name that the engine is
 * asked to make must appear, as seen through the engine process's own root
 * (/proc/PID/root, proc(5)), where it says.  So an engine in a container, or
 * with a mount namespace of its own, is seen as it sees itself.  Only for root,
 * and only for an engine whose user ids are this machine's.
 */
#ifndef DVOLFS_VOLUME_LOCAL_H
#define DVOLFS_VOLUME_LOCAL_H

#include "volume/contents.h"

struct engine;
struct local;

/* Of the volume that proves it, while it exists (a moment): how its name begins,
 * and a label whose value is its owner (volume/owner.h). */
#define LOCAL_PREFIX "dvolfs-probe-"
#define LOCAL_LABEL "dvolfs.probe"

/*
 * Proves it; one reference.  -ENOTSUP with why: volumes cannot be read from here, and for
 * which reason; errors of the engine.  Blocks on it.
 */
must_check int local_open(struct engine *engine, struct local **ret_local, struct fail *why);
struct local *local_ref(struct local *local);
/* The last one frees it; contents live on.  NULL is allowed. */
void local_unref(struct local *local);
DEFINE_CLEANUP(cleanup_local_impl, struct local, local_unref)
#define cleanup_local cleanup(cleanup_local_impl)

/* Removes such volumes of processes that died: how many, or why not.  Blocks on
 * the engine. */
must_check int local_sweep(struct engine *engine, struct fail *why);

/*
 * The contents of the volume that the engine says lies at mountpoint (of the
 * local driver, without options); a new reference.  -ENOENT; -errno with why.
 */
must_check int local_contents(struct local *local, const char *mountpoint,
                              struct contents **ret_contents, struct fail *why);

/* The contents of an open directory, which is taken, also on failure.  NULL: out of memory. */
must_check struct contents *local_contents_at(int root);
/* The same of one in the mount namespace of another process. */
must_check struct contents *local_contents_within(int root, pid_t process);

#endif
