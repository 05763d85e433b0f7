/*
 * slice: how long the scheduler lets us run at a stretch, sched_setattr(2). The shortest slice there is gives us no more
 * of a CPU than before, but gives it in time, ahead of those who compute (EEVDF, since Linux 6.12; earlier ones ignore
 * it). Beside many busy children we would else wait for one of them, also while another CPU has nothing to do.
 */
#pragma once

/* Leaves everything as it is where it is not allowed, or we are under another policy than SCHED_OTHER. */
void slice_shorten(void);

/* For a child: what we had before slice_shorten(). System calls only. */
void slice_restore(void);
