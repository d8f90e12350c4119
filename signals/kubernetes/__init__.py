"""What the source `kubernetes_events` is made of. What judges (pods, rollouts, certificates, saturation) is pure."""
