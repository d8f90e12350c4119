"""What the runbooks of Kubernetes share: objects as small types, and judging them. Pure but for `reads.py`.

Nothing here changes anything: that is `runbooks/actions/kubernetes.py`.
"""
