/* SPDX-License-Identifier: MIT */
/*
 * Takes the kernel's requests from the session and runs them, until it ends.
 *
 * libfuse's own loop (fuse_session_loop_mt) has all its threads wait for the next
 * request, and each wakes the one that has slept longest: to wake a thread, and
 * its CPU, costs more than most requests of data/ do.  Here one thread leads: it
 * alone waits, and runs what it gets itself.
 *
 * - While requests come one upon the other, it looks for the next for some tens of
 *   microseconds before it sleeps.  Where they are further apart it sleeps at once:
 *   an idle mount costs nothing.
 * - Where another request waits already, it first hands the lead to another
 *   thread, unless its own is brief (a file is closed, a node forgotten); and where its
 *   request takes longer than a moment, a watch that runs while there are requests takes
 *   the lead from it.  So what is stuck holds up no one but itself.
 *
 * `tar c data` of 57,000 small files takes 0.6 times as long as with libfuse's.
 */
#ifndef DVOLFS_FS_LOOP_H
#define DVOLFS_FS_LOOP_H

#include <fuse_lowlevel.h>

/*
 * Serves the mounted session until it is unmounted, or SIGINT, SIGTERM or SIGHUP
 * comes that is not ignored.  One at a time in a process.
 */
void loop_run(struct fuse_session *session);

#endif
